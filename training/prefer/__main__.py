"""Preference tuning after GRIT, by KTO or DPO.

    python -m training.prefer --config training/recipes/preferences.yaml --model assets/gritlm-135m \\
        --output_dir runs/kto

Every setting of the recipe can be overridden: --method dpo --pairs 500
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from jsonargparse import auto_cli

from grit_app.errors import GritError
from grit_app.gritlm import GritConfig
from grit_app.gritlm.load.sources import find_folder
from training.prefer.tune import PreferConfig, read_preferences, tune


def main(arguments: list[str] | None = None) -> None:
    try:
        config: Any = auto_cli(PreferConfig, args=arguments, as_positional=False)
        drawn = read_preferences(config, GritConfig.load(find_folder(config.model)))
        print(f"preferences by rule: {dict(Counter(each.rule for each in drawn))}")
        done = tune(config, drawn)
    except GritError as error:
        sys.exit(f"error: {error}")
    print(f"{done.steps} steps over {done.pairs} pairs; written to {done.folder}")


if __name__ == "__main__":
    main()
