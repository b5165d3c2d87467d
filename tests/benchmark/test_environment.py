"""What a measurement was made on."""

from __future__ import annotations

import json
from pathlib import Path

from grit_app.benchmark import environment


def test_a_machine_without_a_gpu_says_so() -> None:
    facts = environment.describe()
    assert json.loads(json.dumps(facts)) == facts
    if facts["gpu"] is None:
        assert facts["cuda"] is None


def test_the_driver_tells_power_and_clocks(tmp_path: Path) -> None:
    """A card that is throttled, or shared, is not the card of the data sheet."""
    tool = tmp_path / "smi"
    tool.write_text("#!/bin/sh\necho '580.65.06, 700.00 W, 98.50 W, 1980 MHz, 1980 MHz, 34'\n")
    tool.chmod(0o755)
    facts = environment.smi_facts(str(tool))
    assert facts["driver_version"] == "580.65.06"
    assert (facts["power_limit"], facts["clocks_sm"]) == ("700.00 W", "1980 MHz")
    assert environment.smi_facts(str(tmp_path / "none")) == {}
