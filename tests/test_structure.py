"""The size of the house: what a newcomer meets in a folder, in a file, and behind an import."""

from __future__ import annotations

import re
import statistics

import pytest

from tests.source import ROOT, code_files, module_name, source

MODULES_A_FOLDER = 12
LINES_A_FILE = 400
MEDIAN_FUNCTION_LINES = 10


def test_no_folder_shows_more_modules_than_can_be_read_at_a_glance() -> None:
    counts: dict[str, int] = {}
    for path in code_files():
        if not path.name.startswith("__"):
            counts[str(path.parent.relative_to(ROOT))] = counts.get(str(path.parent.relative_to(ROOT)), 0) + 1
    assert len(counts) > 15, "the walk has missed the folders"
    assert {folder: count for folder, count in counts.items() if count > MODULES_A_FOLDER} == {}


def test_no_file_is_too_long_to_open_gladly() -> None:
    lines = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in code_files()}
    assert {name: count for name, count in lines.items() if count > LINES_A_FILE} == {}


def test_the_median_function_is_short() -> None:
    lengths = [length for path in code_files() for length in source(path).functions]
    assert statistics.median(lengths) <= MEDIAN_FUNCTION_LINES


def import_graph() -> dict[str, set[str]]:
    """Module → modules of the project that it imports, in functions and for types as well."""
    modules = {module_name(path): path for path in code_files()}
    return {name: (source(path).imports & modules.keys()) - {name} for name, path in modules.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, by what every module reaches."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:  # Warshall: paths that go through `middle`
        for start in graph:
            if middle in reach[start]:
                reach[start] |= reach[middle]
    groups = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def packages(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without edges to packages: `from package import module` names both, and means the module."""
    folders = {name for name in graph if any(other.startswith(name + ".") for other in graph)}
    return {name: targets - folders for name, targets in graph.items()}


def test_no_import_comes_back_to_where_it_started() -> None:
    """Types and imports inside functions count: two files that need each other are one, or three."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    graph = packages(import_graph())
    assert sum(map(len, graph.values())) > 300, "the walk has missed the imports"
    assert circles(graph) == []


MAPS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "training/README.md")


@pytest.mark.parametrize("name", MAPS)
def test_a_map_names_files_that_exist(name: str) -> None:
    """A newcomer who follows a page must arrive: files were moved and kept their old names on it."""
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"[\w./-]+\.(?:py|yaml|md)\b", re.sub(r"https?://\S+", "", text)))
    known = [f"/{path.relative_to(ROOT).as_posix()}" for end in ("py", "yaml", "md") for path in ROOT.glob(f"*.{end}")]
    for room in ("grit_app", "training", "tests", "docs", "assets"):
        known += [f"/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / room).rglob("*.*")]
    assert named, "the walk has missed the names"
    lost = sorted(one for one in named if not any(path.endswith(f"/{one.lstrip('./')}") for path in known))
    assert lost == []


def test_every_folder_of_code_stands_on_the_map() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = {path.parent for path in code_files() if not path.name.startswith("__")}
    assert sorted(f.relative_to(ROOT).as_posix() for f in folders if f"{f.name}/" not in text) == []
