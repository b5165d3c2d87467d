"""What a Hugging Face Space gets: complete, of allowed sizes and versions, for each kind of hardware."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from grit_app.deploy import __main__ as command
from grit_app.deploy import space
from grit_app.deploy.requirements import ROOT, project
from grit_app.deploy.space import ATTRIBUTES, HARDWARE, Hardware, check, front_matter, space_requirements, stage


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small clone in good order."""
    root = tmp_path / "clone"
    (root / "assets").mkdir(parents=True)
    for name in ("README.md", "pyproject.toml", "requirements.txt", "requirements-dev.txt", "app.py"):
        shutil.copyfile(ROOT / name, root / name)
    (root / "assets" / "model.safetensors").write_bytes(b"\0" * 100)
    return root


def test_this_clone_can_be_published() -> None:
    assert [problem for hardware in HARDWARE for problem in check(hardware)] == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda root: (root / "notes.bin").write_bytes(b"a\0b"), "notes.bin is binary"),
        (lambda root: (root / "corpus.txt").write_bytes(b"a" * 10_000_001), "corpus.txt has 10 MB"),
        (lambda root: (root / "app.py").unlink(), "app_file 'app.py' does not exist"),
        (lambda root: (root / "requirements.txt").write_text("torch\n"), "requirements.txt is not what"),
        (lambda root: (root / "assets" / "model.safetensors").unlink(), "no weights"),
        (lambda root: edit(root / "README.md", "sdk_version: ", "sdk_version: 1."), "pins gradio"),
        (lambda root: edit(root / "README.md", "license: ", "licence: "), "lacks license"),
    ],
)
def test_what_would_be_refused_is_said_before(clone: Path, change: Any, sentence: str) -> None:
    assert check("cpu", clone) == []
    change(clone)
    (problem,) = check("cpu", clone)
    assert sentence in problem


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize("hardware", HARDWARE)
def test_a_staged_space_is_complete(clone: Path, tmp_path: Path, hardware: Hardware) -> None:
    files = stage(tmp_path / "space", hardware, clone)
    assert {Path("README.md"), Path("app.py"), Path("requirements.txt"), Path(".gitattributes")} < set(files)
    facts = front_matter((tmp_path / "space" / "README.md").read_text(encoding="utf-8"))
    assert facts["suggested_hardware"] == space.SUGGESTED[hardware]
    assert ("preload_from_hub" in facts) == (hardware == "gpu")
    assert (tmp_path / "space" / ".gitattributes").read_text() == ATTRIBUTES
    with pytest.raises(FileExistsError, match="not empty"):
        stage(tmp_path / "space", hardware, clone)


def test_each_hardware_installs_the_torch_it_can_run() -> None:
    """A CPU Space without CUDA's gigabytes; ZeroGPU one of four versions, and its own package."""
    lines = {hardware: space_requirements(project(), hardware).splitlines() for hardware in HARDWARE}
    assert any(line.startswith("torch==") and line.endswith("+cpu") for line in lines["cpu"])
    assert not any(line.startswith("bitsandbytes") for line in lines["cpu"])
    assert any(line.startswith("bitsandbytes") for line in lines["gpu"])
    assert f"torch=={project()['tool']['grit-workbench']['torch-on-zerogpu']}" in lines["zerogpu"]


def test_tests_and_training_stay_at_home() -> None:
    names = {path.as_posix() for path in space.tracked_files()}
    assert "app.py" in names and any(name.startswith("grit_app/ui/") for name in names)
    assert not any(name.startswith(("tests/", "training/", ".ci/")) for name in names)


def test_publishing_is_one_upload(clone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, name: str, **settings: Any) -> str:
            calls.append((name, settings))
            return f"https://hub.test/spaces/{name}"

        def upload_folder(self, **settings: Any) -> None:
            calls.append((settings["repo_id"], settings))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    stage(tmp_path / "space", "cpu", clone)
    assert command.publish("me/grit", tmp_path / "space") == "https://hub.test/spaces/me/grit"
    assert [name for name, _ in calls] == ["me/grit", "me/grit"]
    assert calls[0][1]["space_sdk"] == "gradio" and calls[1][1]["repo_type"] == "space"


def test_the_command_checks_and_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--check"]) == 0
    assert "Ready" in capsys.readouterr().out
    assert command.main([]) == 2


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_containers_follow_the_rules(name: str) -> None:
    """Linted, since no engine runs here; and not as root, with a volume for data and a check of health."""
    lint = subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), str(ROOT / name)], capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout
    text = (ROOT / name).read_text(encoding="utf-8")
    for line in ("USER 1000", "VOLUME /data", "HEALTHCHECK", "/health", "GRIT_DATA_DIR=/data"):
        assert line in text, line
    assert "FROM python:3.12.12-slim" in text
    copied = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied), copied
