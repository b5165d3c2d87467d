"""What a measurement was made on: hardware, versions, threads, load. Without it a millisecond means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from grit_app.gritlm import GritLM

PACKAGES = ("torch", "transformers", "safetensors", "numpy")


def describe(model: GritLM | None = None) -> dict[str, Any]:
    """The machine, the software, and the model if there is one. Ready for JSON."""
    facts: dict[str, Any] = {
        "hardware": hardware_name(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": cuda_facts(),
        "load_average": [round(value, 2) for value in psutil.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if model is not None:
        facts["model"] = model.describe() | {"trained_context": model.config.trained_context}
    return facts


def cuda_facts() -> dict[str, Any] | None:
    """What a GPU's milliseconds depend on besides the card: libraries, driver, power limit and clocks; None without."""
    if not torch.cuda.is_available():
        return None
    bitsandbytes = None
    with suppress(PackageNotFoundError):
        bitsandbytes = version("bitsandbytes")
    return {
        "runtime": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "bitsandbytes": bitsandbytes,
        "memory_gb": round(torch.cuda.mem_get_info()[1] / 1e9, 1),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        **smi_facts(),
    }


SMI_FIELDS = ("driver_version", "power.limit", "power.draw", "clocks.sm", "clocks.max.sm", "temperature.gpu")


def smi_facts(command: str = "nvidia-smi") -> dict[str, str]:
    """What nvidia-smi tells of the first card. Empty where it is not installed or does not answer."""
    query = (command, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader", "--id=0")
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in told.strip().splitlines()[0].split(",")]
    return {name.replace(".", "_"): value for name, value in zip(SMI_FIELDS, values, strict=True)}


def hardware_name() -> str:
    """A short name for captions: the GPU if there is one, else processor and cores."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu_name()}, {cores} {'core' if cores == 1 else 'cores'}"


def cpu_name() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def fixed_threads(count: int | None) -> Iterator[int]:
    """Runs the block with `count` threads (None: as many as torch has now) and gives the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
