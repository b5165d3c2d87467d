"""What publishing needs.

python -m grit_app.deploy --requirements     write requirements*.txt from pyproject.toml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from grit_app.deploy import requirements


def main(arguments: Sequence[str]) -> int:
    parser = ArgumentParser(prog="python -m grit_app.deploy", description="What publishing needs.")
    parser.add_argument("--requirements", action="store_true", help="write requirements*.txt from pyproject.toml")
    options = parser.parse_args(list(arguments))
    if options.requirements:
        changed = requirements.write()
        print(f"Written: {', '.join(changed)}." if changed else "The requirements files are up to date.")
        return 0
    parser.print_help()
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
