"""The recipe for nginx in docs/enforcement.md, as it stands there, in a real nginx."""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from demo.gateway import nginx
from tests.support.gateway import background_loop
from tests.support.playback import write_key
from tests.support.processes import Service, free_port, listening
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GUIDE = Path(__file__).parent.parent.parent / "docs" / "enforcement.md"
TOKEN = secrets.token_urlsafe(24)
MAIN = """\
daemon off; pid nginx.pid; error_log error.log warn; {user}
events {{ }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    upstream stream_service {{ server 127.0.0.1:{service_port}; }}
    {http}
    server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""


class Film:
    """nginx by the recipe, in front of a service."""

    def __init__(
        self, port: int, service: Service, hold: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.port = port
        self.service = service
        self.hold_database = hold
        self.release_database = release

    def token(self, content: str | None) -> str:
        """The token of a stream of a new account that was started with this content."""
        headers = {
            "Authorization": f"Bearer {TOKEN}",
            "Session-Id": secrets.token_hex(8),
            "Content-Type": "application/json",
        }
        body = json.dumps({} if content is None else {"content": content}).encode()
        request = urllib.request.Request(f"{self.service.url}/streams", body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            token: str = json.load(answer)["playback_token"]
        return token

    def get(self, path: str, token: str | None) -> tuple[int, bytes]:
        """Ask nginx for a segment."""
        headers = {} if token is None else {"Playback-Token": token}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, mongo_url: str) -> Iterator[Film]:
    folder = tmp_path_factory.mktemp("recipe")
    films = folder / "srv" / "film"
    for name, file in (
        ("film-1", films / "film-1" / "1.m4s"),
        ("film-2", films / "film-2" / "1.m4s"),
        # What no token opens, wherever its content leads.
        ("beside all films", films / "1.m4s"),
        ("outside", films.parent / "1.m4s"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    port, service_port = free_port(), free_port()
    [recipe] = re.findall(r"## nginx\n.*?```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    recipe = recipe.replace("/srv/film", str(films)).replace("GATEWAY_TOKEN", TOKEN)
    http, server = recipe.split("# In server { }.")
    main = MAIN.format(
        user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
        service_port=service_port,
        port=port,
        http=http,
        server=server,
    )
    (folder / "nginx.conf").write_text(main)
    with ExitStack() as stack:
        run = stack.enter_context(background_loop())
        host = urlsplit(mongo_url).netloc.rpartition("@")[2]
        database = Proxy(int(host.rpartition(":")[2]))
        run(database.__aenter__())
        stack.callback(lambda: run(database.__aexit__()))
        service = stack.enter_context(
            Service(
                PORT=str(service_port),
                MONGO_URL=mongo_url.replace(host, f"127.0.0.1:{database.port}"),
                MONGO_DB=f"stream_service_test_{secrets.token_hex(6)}",
                GATEWAY_TOKEN=TOKEN,
                PLAYBACK_KEYS=str(write_key(folder / "playback.pem")),
            )
        )
        assert service.url
        command = [nginx() or "nginx", "-e", "error.log", "-p", str(folder), "-c", "nginx.conf"]
        stack.enter_context(listening(port, *command, folder=folder))
        yield Film(
            port,
            service,
            lambda: run(_call(database.hold)),
            lambda: run(_call(database.release)),
        )


async def _call(function: Callable[[], None]) -> None:
    function()


def test_a_token_opens_the_film_of_its_stream_whatever_the_address_names(film: Film) -> None:
    token = film.token("film-1")
    assert film.get("/film/film-1/1.m4s", token) == (200, b"film-1")
    assert film.get("/film/film-2/1.m4s", token) == (200, b"film-1")
    assert film.get("/film/film-1/2.m4s", token)[0] == 404
    assert film.get("/film/film-1/1.m4s", None)[0] == 401
    assert film.get("/film/film-1/1.m4s", "made-up")[0] == 401


@pytest.mark.parametrize(
    "content",
    [None, "", ".", "..", "...", "../film-2", "film-1/..", "film-1/../film-2", "%2E%2E", "a\x00b"],
)
def test_content_that_is_no_plain_name_opens_nothing(film: Film, content: str | None) -> None:
    token = film.token(content)
    for path in ("/film/film-1/1.m4s", "/film/../1.m4s", "/film/x/%2e%2e/1.m4s"):
        assert film.get(path, token)[0] == 404


def test_a_database_that_gives_no_answer_ends_no_film_and_opens_no_other(
    film: Film,
) -> None:
    token, nameless = film.token("film-2"), film.token("..")
    film.hold_database()
    try:
        assert film.get("/film/film-1/1.m4s", token) == (200, b"film-2")
        assert film.get("/film/film-1/1.m4s", nameless)[0] == 404
        assert film.get("/film/film-1/1.m4s", "made-up")[0] == 401
    finally:
        film.release_database()
