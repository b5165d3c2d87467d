"""`python -m training.toy`: see `training.toy.make`."""

from jsonargparse import auto_cli

from training.toy.make import make

if __name__ == "__main__":
    auto_cli(make, as_positional=False)
