"""README's front matter and commands agree with the rest of the repository."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def pinned(package: str) -> str:
    found = re.search(rf"^{re.escape(package)}==(\S+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)
    assert found, f"{package} is not pinned in requirements.txt"
    return found[1]


def first_sh_block(section: str) -> str:
    found = re.search(rf"^## {section}\b.*?^```sh\n(.*?)^```", README, re.M | re.S)
    assert found, f"README has no sh block under '## {section}'"
    return found[1]


def test_the_space_runs_the_pinned_gradio() -> None:
    found = re.search(r"^sdk_version: (\S+)$", README, re.M)
    assert found
    assert found[1] == pinned("gradio")


def test_every_requirement_is_pinned_exactly() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r ")):
                assert "==" in line, f"{name}: {line}"


def test_the_two_commands_install_what_they_run() -> None:
    assert "requirements.txt" in first_sh_block("Run")
    assert "app.py" in first_sh_block("Run")
    assert "requirements-dev.txt" in first_sh_block("Test")
    assert "pytest" in first_sh_block("Test")


def test_pictures_and_links_in_the_readme_exist() -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", README) + re.findall(r'src="(?!https?://)([^"]+)"', README)
    missing = [target for target in targets if not (ROOT / target.split("#")[0]).exists()]
    assert missing == []


def test_short_description_fits_a_space_card() -> None:
    found = re.search(r"^short_description: (.+)$", README, re.M)
    assert found
    assert len(found[1]) <= 60


def test_no_tracked_file_is_too_large_to_host() -> None:
    """Weights are split so that every file stays below 48 MB."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        assert not path.exists() or path.stat().st_size < 48_000_000, name
