"""What a GPU waits for: questions from the host inside the loops that run for each layer, token or batch.

Read from the source, since no GPU may be at hand. `.item()`, `.tolist()`, `.cpu()`, `bool(tensor.any())` and the like
wait for all that was launched, and `torch.tensor(…)` on a device is a copy that waits as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import grit_app.gritlm

ROOM = Path(grit_app.gritlm.__file__).parent

HOT = {
    "cache/kv_cache.py": ["_write", "layers", "harvest"],
    "cache/pack.py": ["unpack_keys", "unpack_values", "_numbers"],
    "cache/rope.py": ["move", "_turn", "_turn_into"],
    "cache/staging.py": ["_copy", "to_device"],
    "embed/encoding.py": ["_forward", "right_padded", "host_numbers"],
    "embed/pooling.py": ["pool", "_weighted", "l2_normalize"],
    "write/fixed_step.py": ["run", "_compute", "_attend", "hold", "write_back"],
    "write/grouped_attention.py": ["attention_plan", "lower_right", "_folded", "_shared", "_in_chunks", "__call__"],
    "write/runtime.py": ["hidden", "_forward", "_plan", "_attention", "heads_of", "angles", "append", "workspace"],
}
"""File → functions that run for each layer, token or batch; those that are not there are skipped."""

WAITS = {"item", "tolist", "cpu", "numpy", "any", "all", "nonzero", "unique", "synchronize", "is_nonzero"}
COPIES = {"tensor", "as_tensor"}

ALLOWED = {
    ("cache/kv_cache.py", "harvest", "cpu"): "ids, which are on the host",
    ("cache/kv_cache.py", "harvest", "as_tensor"): "ids, which are on the host",
    ("cache/staging.py", "_copy", "synchronize"): "of a buffer that the bus has read long ago",
    ("embed/encoding.py", "_forward", "cpu"): "the vectors: the one wait of a batch",
    ("embed/encoding.py", "_forward", "numpy"): "after the wait",
    ("embed/encoding.py", "_forward", "all"): "of numbers on the host, after the wait",
    ("embed/pooling.py", "pool", "any"): "on a CPU only",
    ("embed/pooling.py", "pool", "all"): "on a CPU only",
    ("write/runtime.py", "workspace", "all"): "of devices, not numbers",
    ("write/runtime.py", "_forward", "tensor"): "the ids of a prompt, once a forward",
}
"""(file, function, call) → why it does not cost."""


def calls(function: ast.FunctionDef) -> set[str]:
    """Names of calls in a function that would wait."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            is_torch = isinstance(owner, ast.Name) and owner.id == "torch"
            if node.func.attr in WAITS or (is_torch and node.func.attr in COPIES):
                found.add(node.func.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "all":
            found.add("all")
    return found


def hot_functions() -> dict[tuple[str, str], ast.FunctionDef]:
    return {
        (file, node.name): node
        for file, names in HOT.items()
        for node in ast.walk(ast.parse((ROOM / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name in names
    }


def test_no_hot_loop_asks_the_device() -> None:
    functions = hot_functions()
    assert len(functions) > 25, "the walk has missed the loops"
    found = {(file, name, call) for (file, name), node in functions.items() for call in calls(node)}
    assert found - ALLOWED.keys() == set()


def test_what_is_allowed_is_there() -> None:
    """An exception for code that is gone would hide the next one."""
    functions = hot_functions()
    stale = {key for key in ALLOWED if key[:2] in functions and key[2] not in calls(functions[key[:2]])}
    assert stale == set()


def test_the_lint_sees_what_it_looks_for() -> None:
    source = "def f(x):\n    if bool(x.any()):\n        return torch.tensor([x.item()], device=x.device)\n"
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    assert calls(function) == {"any", "tensor", "item"}
