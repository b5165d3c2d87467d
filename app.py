"""Start the workbench from a clone, or on a Hugging Face Space; installed, it is the command `grit-workbench`.

python app.py [--model PATH_OR_NAME|auto] [--quantization auto|none|8bit|4bit] [--device auto|cpu|cuda] [--port P] …
"""

import os

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401  must come before torch, whose CUDA it stands in for until a GPU is lent

from grit_app.start import command

if __name__ == "__main__":
    command()
