"""`python -m grit_app` starts the workbench, as `grit-workbench` and `python app.py` do."""

from grit_app.start import command

if __name__ == "__main__":
    command()
