"""What the files of the code hold, read once for all tests that judge it: imports, functions, names of torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Source:
    """One file. Its syntax tree is not kept: the trees of all files slow every garbage collection down."""

    imports: frozenset[str]
    """Absolute module names; `from a import b` counts as `a.b` and `a`."""

    taken: frozenset[tuple[str, str]]
    """(module, name) of each `from module import name`."""

    names: frozenset[str]
    """What the file gives a name to."""

    functions: tuple[int, ...]
    """The length of each function, in lines."""

    torch_names: frozenset[str]
    """`torch.a.b.c` of every attribute chain and import, as far as modules, classes and functions go."""


@cache
def code_files() -> tuple[Path, ...]:
    return tuple(sorted(path for room in ("grit_app", "training") for path in (ROOT / room).rglob("*.py")))


@cache
def source(path: Path) -> Source:
    imports: set[str] = set()
    taken: set[tuple[str, str]] = set()
    bound: set[str] = set()
    functions: list[int] = []
    torch_names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(node.name)
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            taken |= {(str(node.module), alias.name) for alias in node.names}
            imports |= {str(node.module)} | names
            torch_names |= {name for name in names if name.startswith("torch.")}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            functions.append(node.end_lineno - node.lineno + 1)
        elif isinstance(node, ast.Attribute) and (chain := dotted(node)).startswith("torch."):
            torch_names.add(chain)
    return Source(frozenset(imports), frozenset(taken), frozenset(bound), tuple(functions), frozenset(torch_names))


def module_name(path: Path) -> str:
    """As it is imported: `grit_app.rag` for the package's own file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain; empty where it begins with anything but a name."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""
