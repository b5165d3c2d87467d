"""Imports run one way: ui → benchmark → serve → rag → documents → gritlm.

Training uses all rooms but ui; nothing in grit_app imports training.
"""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["gritlm", "documents", "rag", "serve", "benchmark", "ui"]  # each may import those before it


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Everything in a file's syntax tree; read once for all tests that look at it."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Absolute module names that the file imports; `from a import b` counts as `a.b` and `a`."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def offences() -> list[str]:
    found = []
    for path in sorted((ROOT / "grit_app").rglob("*.py")):
        room = path.relative_to(ROOT / "grit_app").parts[0]
        names = imported_modules(path)
        forbidden = ["training"]
        if room in ROOMS:
            forbidden += [f"grit_app.{other}" for other in ROOMS[ROOMS.index(room) + 1 :]]
        if room == "gritlm":
            forbidden += ["grit_app.settings", "grit_app.errors"]
        for name in names:
            if any(name == bad or name.startswith(bad + ".") for bad in forbidden):
                found.append(f"{path.relative_to(ROOT)} imports {name}")
    for path in sorted((ROOT / "training").rglob("*.py")):
        pages = [name for name in imported_modules(path) if name.startswith("grit_app.ui")]
        found += [f"{path.relative_to(ROOT)} imports {name}" for name in pages]
    return found


def test_imports_run_one_way() -> None:
    assert offences() == []


def test_every_room_has_files() -> None:
    """Guard against a vacuous pass: the walk above must have seen the rooms it judges."""
    for room in ROOMS:
        assert list((ROOT / "grit_app" / room).glob("*.py")), room
