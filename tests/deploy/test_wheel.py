"""The wheel has all that the service reads: it runs from the wheel alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOUND_THERE = """
from pathlib import Path
import stream_service
from stream_service.app import create_app
from stream_service.pages.guides import GUIDES, rendered
from stream_service.settings import Settings

package = Path(stream_service.__file__).parent
assert package.parent == Path.cwd(), package
assert all(guide.path.is_relative_to(package) and rendered(name) for name, guide in GUIDES.items())
create_app(Settings())
print(*GUIDES)
"""


def test_the_wheel_has_every_page_guide_and_description(tmp_path: Path) -> None:
    # Not from the checkout itself: a build leaves folders behind that the next one would take up.
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source],
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    there = tmp_path / "there"
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        archive.extractall(there)
    assert {name for name in files if name.startswith("stream_service/")} <= packed
    guides = {Path(name).stem for name in files if Path(name).parent == Path("docs")}
    ran = subprocess.run(
        [sys.executable, "-c", FOUND_THERE],
        cwd=there,
        env={**os.environ, "PYTHONPATH": str(there)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(ran.stdout.split()) == guides
