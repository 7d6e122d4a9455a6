"""The wheel and the sdist: netplane installed in a clean environment renders, by its templates."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("iptables", "nftables")
    for path in (ROOT / "templates" / folder).iterdir()
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built as a release would be."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    return out


def test_wheel_and_sdist_contain_the_templates(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert TEMPLATES
    assert {f"netplane/{name}" for name in TEMPLATES} <= names
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert set(TEMPLATES) <= inside


def test_an_installed_wheel_renders_in_both_modes(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    # The pip at hand, since to install another one there takes longer than all the rest.
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")]
    install = [*pip, "install", "--quiet", "--no-compile", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    # From a folder without a checkout, so that nothing but the wheel can be found.
    for mode, expected in (("iptables", "KUBE-SVC-"), ("nftables", "map services {")):
        command = ["render", "-f", str(ROOT / "examples"), "--node", "node-1", "--mode", mode]
        done = subprocess.run(
            [str(home / "bin" / "netplane"), *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        assert "default/web:http" in done.stdout
