"""Start the workbench from a clone, or on a Hugging Face Space; installed, it is the command `grit-workbench`.

python app.py [--model PATH_OR_NAME|auto] [--quantization auto|none|8bit|4bit] [--device auto|cpu|cuda] [--port P] …
"""

from grit_app.start import command

if __name__ == "__main__":
    command()
