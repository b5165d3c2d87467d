"""What the paper's commands run: the arms of the ablations, their runs, and how many hours all of it takes."""
