"""The wheel: built from pyproject.toml, and working where nothing of the clone can be seen."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import grit_app
from grit_app import places
from grit_app.deploy.requirements import COMMAND, ROOT, app_pins, project, requirement_files
from grit_app.errors import SettingsError


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    run(sys.executable, "-m", "pip", *build, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel; it borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    binaries = folder / "env" / "bin"
    site = run(binaries / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    (Path(site.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--quiet", "--no-deps", wheel)
    run(*pip, cwd=folder)
    return binaries


def test_requirement_files_are_what_pyproject_says() -> None:
    for name, content in requirement_files(project()).items():
        written = (ROOT / name).read_text(encoding="utf-8")
        assert written == content, f"{name} differs from pyproject.toml: change that, then run `{COMMAND}`."


def test_a_zerogpu_space_gets_an_allowed_torch_and_its_own_package() -> None:
    pins = app_pins(project(), on_zerogpu=True)
    (torch,) = [pin for pin in pins if pin.startswith("torch=")]
    assert torch.removeprefix("torch==") in {"2.8.0", "2.9.1", "2.10.0", "2.11.0"}
    assert any(pin.startswith("spaces==") for pin in pins)
    assert not any(pin.startswith("spaces") for pin in app_pins(project()))


def test_the_wheel_has_code_recipes_and_small_assets_but_no_weights(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    wanted = ("grit_app/assets/style.css", "grit_app/assets/samples/field_guide.pdf", "training/recipes/toy.yaml")
    assert set(wanted) < set(names)
    assert any(name.startswith("grit_app/assets/benchmarks/") for name in names)
    assert "grit_app/assets/paper/published.json" in names
    tracked = subprocess.run(["git", "ls-files", "grit_app", "training"], cwd=ROOT, capture_output=True, text=True)
    assert set(tracked.stdout.split()) <= set(names), "code or data that was left out"
    assert not [name for name in names if name.endswith((".safetensors", ".pyc")) or name.startswith("tests")]
    assert wheel.name.split("-")[1] == grit_app.__version__
    assert wheel.stat().st_size < 5e6


def test_the_installed_package_runs_anywhere(installed: Path, tmp_path: Path) -> None:
    script = "import grit_app, training; from grit_app.places import ASSETS; print(grit_app.__file__, ASSETS.is_dir())"
    where, has_assets = run(installed / "python", "-c", script, cwd=tmp_path).split()
    assert Path(where).is_relative_to(installed.parent), "the clone was imported, so nothing was proven"
    assert has_assets == "True"
    for command in ([installed / "grit-workbench"], [installed / "python", "-m", "grit_app"]):
        told = run(*command, "--help", cwd=tmp_path)
        name = command[0].name if len(command) == 1 else "python -m grit_app"
        assert "--quantization" in told and told.startswith(f"usage: {name} "), "the usage names another command"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["grit_app.ask", "a.txt", "Who?"], "The small model is not part of the installed package"),
        (["grit_app.deploy", "--check"], "This is no clone of the source repository"),
        (["training.lease", "--config", "none.yaml"], "The recipe none.yaml cannot be read"),
        (["training.validate", "--config", "toy.yaml"], "There is no model folder 'training/toy/data/start'"),
    ],
)
def test_what_an_installed_package_lacks_is_one_sentence(
    installed: Path, tmp_path: Path, command: list[str], sentence: str
) -> None:
    (tmp_path / "a.txt").write_text("Bees make honey.", encoding="utf-8")
    (tmp_path / "toy.yaml").write_bytes((ROOT / "training" / "recipes" / "toy.yaml").read_bytes())
    told = subprocess.run(
        [installed / "python", "-m", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr.count("\n")) == (2, 1), told.stderr
    assert sentence in told.stderr


def test_without_the_bundled_weights_a_sentence_says_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(places, "BUNDLED_MODEL", tmp_path / "gritlm")
    with pytest.raises(SettingsError, match=r"assets/gritlm of the source repository.*--model FOLDER"):
        places.present(str(tmp_path / "gritlm"))
    assert places.present("GritLM/GritLM-7B") == "GritLM/GritLM-7B"
