"""The badge: which model, where, in which precision, and how it stands."""

from __future__ import annotations

from typing import Any

from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import escape

STATES = {"loading": "Loading", "ready": "Ready", "busy": "Busy", "failed": "Failed"}


def badge(engine: Engine) -> str:
    """One line of HTML. The state is told by a word, not by its colour alone."""
    state = engine.state
    word = STATES[state]
    if state == "failed":
        detail = f'<span class="badge-why">{escape(engine.failure)}</span>'
    elif state == "loading":
        # Hidden from screen readers, to which every second would be read out.
        since = f'<span aria-hidden="true">for {engine.seconds:.0f} s; </span>'
        detail = f'<span class="badge-why">{since}the page works already, answers wait for the model</span>'
    else:
        detail = "".join(f'<span class="badge-part">{escape(part)}</span>' for part in parts(engine.describe()))
    return (
        f'<div class="badge" role="status" aria-label="Model status">'
        f'<span class="badge-state {state}"><span class="dot" aria-hidden="true"></span>{word}</span>{detail}</div>'
    )


def parts(description: dict[str, Any]) -> list[str]:
    """The pieces of the badge: name, size, device, dtype or quantisation, memory."""
    quantization = str(description["quantization"])
    precision = str(description["dtype"]).removeprefix("torch.")
    return [
        str(description["name"]),
        f"{count(description['parameters'])} parameters",
        str(description["device"]),
        precision if quantization == "none" else f"{quantization}, {precision} compute",
        size(description["memory_bytes"]),
    ]


def count(number: float) -> str:
    """A count with three digits: 7.24 B, 36.1 M, 512."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f}"


def size(bytes_: float) -> str:
    """A size with its unit, in powers of 1,000: 1.5 GB, 12 MB, 340 B."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if bytes_ >= 1000**power:
            return f"{bytes_ / 1000**power:.3g} {unit}"
    return f"{bytes_:.0f} B"


def seconds(milliseconds: float) -> str:
    """A duration with a fitting unit: 12 ms, 0.34 s, 4.1 s, 83 s."""
    if milliseconds < 100:
        return f"{milliseconds:.3g} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
    value = milliseconds / 1000
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 60 else f"{value:.0f} s"
