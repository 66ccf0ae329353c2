"""What is installed is all there: a wheel has every file that the service reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_a_wheel_has_every_module_page_and_description(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("stream_service", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # Without a package registry: what builds it is installed with the tests.
    command = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    built = subprocess.run(
        [sys.executable, *command, "--wheel-dir", tmp_path, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("stream_service/")}
    written = {
        str(path.relative_to(source))
        for path in (source / "stream_service").rglob("*")
        if path.is_file()
    }
    written |= {
        f"stream_service/{path.relative_to(ROOT)}"
        for path in (ROOT / "docs").rglob("*")
        if path.is_file()
    }
    assert packed == written
    assert "stream_service/api/openapi.yaml" in packed
    assert "stream_service/api/events.schema.json" in packed
    assert "stream_service/pages/static/docs.html" in packed
