"""deploy/nginx-gateway.conf, run in a folder of its own and on other ports."""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
GATEWAY = ROOT / "deploy" / "nginx-gateway.conf"

_MAIN = """\
daemon off;
pid nginx.pid;
worker_processes 2;
error_log error.log warn;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    types {{ text/html html; text/css css; text/javascript js; image/svg+xml svg; }}
{site}
}}
"""

_PAGES = """\
    location / {{
        root {pages};
    }}

    location = /login {{
        proxy_pass_request_headers on;
        proxy_set_header Connection "";
        proxy_pass http://stream_login;
    }}
"""


def nginx() -> str | None:
    """Where nginx is; Debian has it outside of users' PATH."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


def configure(  # noqa: PLR0913 - what the file leaves open
    folder: Path,
    *,
    listen: str,
    service_port: int,
    login_port: int,
    token: str,
    film_root: Path,
    pages: Path | None = None,
    origin: str = "https://www.example.com",
    live: bool = True,
    lease_seconds: int = 60,
) -> list[str]:
    """Write the configuration.

    Args:
        folder: For everything that nginx reads and writes, the Unix socket among it.
        listen: Address and port, with options, as nginx's `listen` takes them.
        service_port: Where the service listens on 127.0.0.1.
        login_port: Where the login listens on 127.0.0.1.
        token: The service's GATEWAY_TOKEN.
        film_root: The folder in which the folder `film` is.
        pages: Files to be served at `/`, beside a way to the login's own page.
        origin: The other origin that may use the gateway.
        lease_seconds: The lease; a sixth of it an answer to a player that renews is used again.
        live: Whether a segment asks if its stream is active now, or goes by its token alone.

    Returns:
        The command that runs nginx in the foreground.
    """
    site = GATEWAY.read_text()
    token_file = folder / "token.conf"
    for old, new in (
        ("listen 80;", f"listen {listen};"),
        ("server 127.0.0.1:3001;", f"server 127.0.0.1:{service_port};"),
        ("server 127.0.0.1:9000;", f"server 127.0.0.1:{login_port};"),
        ("/etc/nginx/stream-service-token.conf", str(token_file)),
        ("/run/stream-gateway.sock", str(folder / "gateway.sock")),
        ("/var/cache/nginx/playback", str(folder / "playback")),
        ("/var/log/nginx/stream-gateway.log", str(folder / "access.log")),
        ("root /srv;", f"root {film_root};"),
        ("proxy_cache_valid 204 10s;", f"proxy_cache_valid 204 {max(1, lease_seconds // 6)}s;"),
        ("https://www.example.com", origin),
    ):
        if old not in site:
            raise ValueError(f"{GATEWAY.name} has no {old!r} any more")
        site = site.replace(old, new)
    if not live:
        site = site.replace("/playback/check?live=1", "/playback/check")
    if pages is not None:
        closed = "    location / {\n        return 404;\n    }\n"
        if closed not in site:
            raise ValueError(f"{GATEWAY.name} has no place for pages any more")
        site = site.replace(closed, _PAGES.format(pages=pages))
    folder.mkdir(parents=True, exist_ok=True)
    token_file.touch(mode=0o600)
    token_file.write_text(f'proxy_set_header Authorization "Bearer {token}";\n')
    # As root nginx would serve as nobody, who may not enter this folder.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_MAIN.format(user=user, site=site))
    return [nginx() or "nginx", "-e", "error.log", "-p", str(folder), "-c", "nginx.conf"]
