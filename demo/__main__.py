"""`make demo`: log in as a household, open four tabs, and see the fourth refused."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import ClientError, ClientSession, web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from demo.film import NAME, make_film
from demo.gateway import ROOT, configure, nginx
from demo.login import login_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

START_SECONDS = 60.0
STOP_SECONDS = 15.0
SITE = ROOT / "demo" / "site"
HLS = ROOT / "demo" / "node_modules" / "hls.js" / "dist" / "hls.min.js"
ICON = ROOT / "stream_service" / "pages" / "static" / "icon.svg"
FILM_SECONDS = 300
LEASE_SECONDS = 30
LIMIT = 3

_WELCOME = """\
The demo is ready: {url}
  Log in (any name will do), open the page in four tabs, and press play in each: three play, the
  fourth shows who is watching and offers to take a place. Tick "Ignore the limit" in a tab that
  plays, and take its place from another one. "Open in another player" gives an address for VLC,
  mpv or ffmpeg. Ctrl-C ends everything."""


_POLICY = """\
[plans.default]
streams = {limit}
limits.uhd = {{ when = {{ quality = "uhd" }}, streams = 1 }}
"""


async def demo(  # noqa: PLR0913 - what the command line leaves open
    folder: Path, port: int, *, limit: int, lease_seconds: int, film_seconds: int, live: bool
) -> int:
    """Run it until SIGINT or SIGTERM, or until a part of it ends by itself.

    Args:
        folder: Keeps the film, the database and the key.
        port: Of the gateway, on 127.0.0.1; 0 takes a free one.
        limit: How many streams a household may have.
        lease_seconds: The service's lease.
        film_seconds: How long the film is.
        live: Whether each segment asks if its stream is active now.

    Returns:
        The exit status.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        film = folder / "film" / NAME
        await asyncio.to_thread(make_film, film, film_seconds, _progress(film_seconds))
        login_port = await stack.enter_async_context(_login())
        pages = folder / "pages"
        shutil.copytree(SITE, pages, dirs_exist_ok=True)
        shutil.copy(HLS, pages)
        shutil.copy(ICON, pages)
        token = secrets.token_urlsafe(24)
        policy = folder / "policy.toml"
        policy.write_text(_POLICY.format(limit=limit))
        service_port, port = _free_port(), port or _free_port()
        environment = {
            **os.environ,
            "HOST": "127.0.0.1",
            "PORT": str(service_port),
            "GATEWAY_TOKEN": token,
            "POLICY_FILE": str(policy),
            "STREAM_LIMIT_HEADER": "X-Stream-Limit",
            "STREAM_TTL_SECONDS": str(lease_seconds),
            "PLAYBACK_KEYS": str(_key(folder / "playback.pem")),
            "FILM_URL": "/film/{playback_token}/film.m3u8",
            "LOG_LEVEL": "WARNING",
        }
        parts = [
            await stack.enter_async_context(
                _process(
                    *(sys.executable, "-m", "stream_service", "--embedded"),
                    *("--data-dir", str(folder / "data")),
                    environment=environment,
                )
            ),
            await stack.enter_async_context(
                _process(
                    *configure(
                        folder / "nginx",
                        listen=f"127.0.0.1:{port}",
                        service_port=service_port,
                        login_port=login_port,
                        token=token,
                        film_root=folder,
                        pages=pages,
                        live=live,
                        lease_seconds=lease_seconds,
                    )
                )
            ),
        ]
        url = f"http://127.0.0.1:{port}"
        ended = [asyncio.create_task(part.wait()) for part in parts]
        ready = asyncio.create_task(_until_ready(url))
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait((ready, stopping, *ended), return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ready.cancelled() and ready.exception() is None:
            print(_WELCOME.format(url=url), flush=True)
            await asyncio.wait((stopping, *ended), return_when=asyncio.FIRST_COMPLETED)
        status = 0 if stopped.is_set() else 1
        if status:
            print("demo: a part of it ended by itself; what it said stands above", file=sys.stderr)
        for task in (ready, stopping, *ended):
            task.cancel()
        return status


def _progress(whole: int) -> Callable[[int], None]:
    def on_progress(seconds: int) -> None:
        end = "\n" if seconds >= whole else ""
        print(f"\rMaking the film, once: {min(seconds, whole)} of {whole} s", end=end, flush=True)

    return on_progress


def _key(path: Path) -> Path:
    """A private key that signs playback tokens, made at the first run."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@asynccontextmanager
async def _login() -> AsyncIterator[int]:
    runner = web.AppRunner(login_app(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _process(
    *command: str, environment: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    # In a group of its own: a Ctrl-C reaches this program alone, which then ends the others.
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _until_ready(url: str) -> None:
    """Return when the gateway answers, and the service behind it."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    async with ClientSession() as session:
        while asyncio.get_running_loop().time() < deadline:
            try:
                async with session.get(url + "/.well-known/jwks.json") as answer:
                    if answer.status == 200:  # noqa: PLR2004
                        return
            except ClientError:
                pass
            await asyncio.sleep(0.1)
    raise TimeoutError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="of the page (8080); 0: a free one")
    parser.add_argument(
        "--folder", type=Path, default=Path(".demo"), help="keeps the film and the data (.demo)"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"of a household ({LIMIT})")
    parser.add_argument(
        "--lease-seconds", type=int, default=LEASE_SECONDS, help=f"({LEASE_SECONDS})"
    )
    parser.add_argument("--film-seconds", type=int, default=FILM_SECONDS, help=f"({FILM_SECONDS})")
    parser.add_argument(
        "--check",
        choices=("live", "lease"),
        default="live",
        help="what a segment goes by: whether its stream is active now, or the lease in its token",
    )
    options = parser.parse_args()
    missing = [
        name
        for name, found in (
            ("nginx", nginx()),
            ("ffmpeg", shutil.which("ffmpeg")),
            ("hls.js", HLS.is_file()),
        )
        if not found
    ]
    if missing:
        print(f"demo: needs {' and '.join(missing)}; `make demo` installs them", file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        return asyncio.run(
            demo(
                options.folder.resolve(),
                options.port,
                limit=options.limit,
                lease_seconds=options.lease_seconds,
                film_seconds=options.film_seconds,
                live=options.check == "live",
            )
        )
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
