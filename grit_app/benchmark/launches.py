"""Counts what a piece of work asks of a GPU, on any machine: every operation that writes a tensor is one launch.

with Launches() as counted:
    model.encode(["some text"])
counted.total, counted.copies, counted.asked
"""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

NO_LAUNCH = ("detach", "prim.device", "lift_fresh", "empty", "new_empty", "_local_scalar_dense")
"""Beside views: what moves nothing on the device."""

COPIES = ("copy_", "_to_copy", "clone", "lift_fresh", "cat")
"""What moves numbers and computes none. `lift_fresh` is a tensor made of Python's numbers: it comes from the host."""


class Launches(TorchDispatchMode):
    """Counts operations while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.copies = 0
        """Those that move numbers, within the device or to it. What comes from the host is no launch, but a copy."""

        self.asked = 0
        """Times that the CPU would have had to wait for a number from the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else str(func)
        self.copies += name in COPIES
        self.asked += name in ("_local_scalar_dense", "nonzero", "equal")
        self.total += not (func.is_view or name in NO_LAUNCH or "prim.device" in str(func))
        return func(*args, **(kwargs or {}))
