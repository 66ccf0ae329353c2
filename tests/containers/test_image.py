"""The image, built by buildah from a bare Debian, and run without an engine: as root, on Linux.

The base that the Dockerfile names cannot be pulled everywhere, so these tests make one of their
own. What follows the base is the Dockerfile's, step by step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.pages.guides import GUIDES, PICTURES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
BASE = "localhost/debian-with-python"
IMAGE = "localhost/stream-service"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATIENCE_SECONDS = 60.0

# The root file system cannot be written, and nothing of this machine but its devices is there.
ENTER = """
set -e
mount --bind "$1" "$1"
mount -o remount,ro,bind "$1"
mount --bind /dev "$1/dev"
root=$1
shift
exec chroot --userspec=65534:65534 "$root" "$@"
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root"),
    pytest.mark.timeout(900),
]


class Images:
    """Images in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._options = [
            *("--storage-driver", "vfs"),
            *("--root", str(folder / "store"), "--runroot", str(folder / "run")),
        ]

    def __call__(self, command: str, *arguments: str) -> str:
        """Run buildah; returns the last line that it printed."""
        return self._run(command, *arguments).rpartition("\n")[2]

    def _run(self, command: str, *arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *self._options, command, *arguments],
            cwd=ROOT, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def inspect(self, image: str) -> dict[str, Any]:
        """What the image says of itself."""
        described: dict[str, Any] = json.loads(self._run("inspect", "--type", "image", image))
        return described

    def build(self, name: str) -> str:
        """Build the Dockerfile; returns the id of the image."""
        # Without --no-cache a second build would be a copy of the first.
        return self(
            "bud",
            *("--no-cache", "--isolation", "chroot", "--network", "host", "--format", "docker"),
            *("--timestamp", "0", "--build-arg", f"PYTHON_IMAGE={BASE}", "--tag", name, "."),
        )

    def close(self) -> None:
        """Unmount and remove everything."""
        self("umount", "--all")
        self("rm", "--all")
        self("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """A store of images with a base that has Python."""
    folder = tmp_path_factory.mktemp("images")
    base = folder / "base"
    print("\n  making a bare Debian with Python", flush=True)
    subprocess.run(
        [
            *("debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"),
            *("bookworm", str(base)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    # Whom this machine trusts, the base trusts too.
    shutil.copy(CERTIFICATES, base / CERTIFICATES.relative_to("/"))
    images = Images(folder)
    container = images("from", "scratch")
    images("add", "--quiet", container, str(base), "/")
    shutil.rmtree(base)
    images("config", "--env", f"PIP_CERT={CERTIFICATES}", container)
    images("commit", "--quiet", "--rm", container, BASE)
    try:
        yield images
    finally:
        images.close()


@pytest.fixture(scope="module")
def image(images: Images) -> str:
    """The id of the built image."""
    print("  building the image", flush=True)
    return images.build(IMAGE)


@pytest.fixture(scope="module")
def inside(images: Images, image: str) -> Path:
    """Where the files of the image are."""
    return Path(images("mount", images("from", "--pull-never", image)))


@pytest.fixture(scope="module")
def described(images: Images, image: str) -> dict[str, Any]:
    """What the image says of itself."""
    config: dict[str, Any] = images.inspect(image)["Docker"]["config"]
    return config


@contextmanager
def running(
    inside: Path, described: dict[str, Any], **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """The entry point, as the image's user, on a root file system that cannot be written."""
    environment = dict(line.split("=", 1) for line in described["Env"]) | variables
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "sh", "-c", ENTER, "enter", str(inside)),
            *("/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environment.items())),
            *("sh", "-c", f'cd {described["WorkingDir"]}; exec "$@"', "entry"),
            *described["Entrypoint"],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_event(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The first log line with this event."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        logged: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        if logged.get("event") == event:
            return logged
    raise AssertionError("".join(seen))


def test_the_same_files_make_the_same_image(images: Images, image: str) -> None:
    # The id of an image in Docker's format holds the name of the container that made it.
    again = images.build(f"{IMAGE}-again")
    assert images.inspect(again)["OCIv1"]["rootfs"] == images.inspect(image)["OCIv1"]["rootfs"]


def test_no_compiler_and_no_installer_is_left(inside: Path) -> None:
    found = {
        path.name
        for folder in ("usr/bin", "usr/local/bin", "srv/venv/bin")
        if (inside / folder).is_dir()
        for path in (inside / folder).iterdir()
    }
    assert "python3" in found
    assert not found & {"cc", "gcc", "c++", "g++", "ld", "as", "make", "rustc", "go", "pip", "pip3"}
    # The tests and the history stay outside.
    assert {path.name for path in (inside / "srv").iterdir()} == {"stream_service", "venv"}


def test_it_runs_as_nobody_and_says_where_and_how_to_ask(described: dict[str, Any]) -> None:
    assert described["User"] == "65534:65534"
    assert "3001/tcp" in described["ExposedPorts"]
    assert described["Healthcheck"]["Test"][0] == "CMD"
    assert "HOST=0.0.0.0" in described["Env"]


def test_it_serves_from_a_file_system_that_cannot_be_written_and_ends_on_a_signal(
    inside: Path, described: dict[str, Any], mongo_url: str, database: str
) -> None:
    where = {"HOST": "127.0.0.1", "PORT": "0", "DRAIN_SECONDS": "0"}
    with running(inside, described, MONGO_URL=mongo_url, MONGO_DB=database, **where) as process:
        url = first_event(process, "serving")["url"]
        request = urllib.request.Request(url + "/watch", headers={"Session-Id": "me"})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            assert answer.status == 200
        for path in (
            *(f"/docs/{name}" for name in GUIDES),
            *(f"/static/{name}" for name in PICTURES),
        ):
            with urllib.request.urlopen(url + path, timeout=PATIENCE_SECONDS) as answer:
                assert answer.status == 200
        # The image's own check, asked where this one listens.
        _, *check = described["Healthcheck"]["Test"]
        port = url.rpartition(":")[2]
        in_image = ["chroot", "--userspec=65534:65534", str(inside), "/usr/bin/env", f"PORT={port}"]
        assert subprocess.run([*in_image, *check], check=False).returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        failed = subprocess.run([*in_image, *check], check=False, capture_output=True)
        assert failed.returncode != 0


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
