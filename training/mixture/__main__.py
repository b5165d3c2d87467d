"""`python -m training.mixture`: see `training.mixture.rules`."""

import logging

from jsonargparse import auto_cli

from grit_app.doors import one_sentence
from training.mixture.corpus import MixtureConfig
from training.mixture.rules import run

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence():
        run(auto_cli(MixtureConfig, as_positional=False))
