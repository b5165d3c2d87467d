"""`python -m grit_app.benchmark latency|quality|throughput|two_models|serve|load|gpu …`: measures, and writes JSON.

Exit codes: 0 measured, 2 bad usage or a model that cannot be used (one sentence on stderr).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from grit_app.errors import GritError

COMMANDS = {
    "latency": "time to the first token by strategy, length and state of the caches",
    "quality": "answers by strategy against gold answers",
    "throughput": "embedding and decoding speed beside sentence-transformers and transformers",
    "serve": "the server under 1, 8 and 32 clients, one process beside two",
    "load": "many visitors of the running app at once: waiting times, mixed or lost answers, memory",
    "gpu": "what only a GPU can show, in ten minutes; --tiny rehearses it on a CPU",
    "two_models": "one model for both tasks beside two copies of it",
}

ROOMS = {"load": "visitors"}
"""Where a command's module lies, if not in `measure`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"There is no command {arguments[0]!r}.\n{_usage()}", file=sys.stderr)
        return 2
    try:
        command: Callable[[Sequence[str]], int | None] = import_module(
            f"grit_app.benchmark.{ROOMS.get(arguments[0], 'measure')}.{arguments[0]}"
        ).main
        return command(arguments[1:]) or 0
    except GritError as error:
        print(error, file=sys.stderr)
        return 2


def _usage() -> str:
    lines = [f"  {name:<12}{what}" for name, what in COMMANDS.items()]
    return "usage: python -m grit_app.benchmark COMMAND [--help]\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
