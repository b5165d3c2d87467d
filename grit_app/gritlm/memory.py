"""When a GPU's memory runs out: what nobody uses is freed, the work is tried once more, and then a person is told."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from grit_app.gritlm.errors import ModelError

Result = TypeVar("Result")


class Spare(Protocol):
    """Something that holds memory only to be faster."""

    def clear(self) -> None: ...


_SPARE: weakref.WeakSet[Spare] = weakref.WeakSet()


def register_spare(holder: Spare) -> None:
    """Makes `holder.clear()` a part of every freeing, for as long as the holder lives."""
    _SPARE.add(holder)


def free_spare() -> None:
    """Gives back what is held only to be faster, and what torch keeps of memory that was freed."""
    for holder in list(_SPARE):
        holder.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_second_try(action: Callable[[], Result], advice: str) -> Result:
    """`action()`, tried again after freeing if a GPU's memory did not suffice. It must leave no trace when it fails.

    Raises ModelError, ending with `advice`, if the second try fails too.
    """
    try:
        return action()
    except torch.OutOfMemoryError:
        pass  # freed outside: until here the failed call's tensors are held by the traceback
    free_spare()
    try:
        return action()
    except torch.OutOfMemoryError as error:
        free_spare()
        raise ModelError(f"The GPU's memory does not suffice for this. {advice}") from error
