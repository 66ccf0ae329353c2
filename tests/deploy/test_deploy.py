"""The service is deployed as its first version was, and reloaded without losing a request.

One server, in temporary folders and on free ports: sshd, pm2, a database, nginx. The tests are the
chapters of one story and run in their order.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.load import steady_load
from tests.deploy.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(600)

SETUP = ("pm2", "deploy", "staging", "setup")
RELOAD = ("pm2", "reload", "stream-service")
UPDATE = ("pm2", "deploy", "staging")
UPDATE_BY_FILE = ("pm2", "deploy", "ecosystem.config.js", "staging")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.running() as server:
        yield server


def ask(
    port: int, method: str, path: str, session: str | None = None
) -> tuple[int, dict[str, Any] | None]:
    """One request on a connection of its own; returns the status and the JSON."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={"Session-Id": session} if session else {})
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body else None
    finally:
        connection.close()


def test_a_deployment_names_the_variables_that_are_missing(server: Server) -> None:
    environment = {k: v for k, v in server.environment.items() if k != "DEPLOY_REPO"}
    failed = server.attempt(*SETUP, environment=environment)
    assert failed.returncode != 0
    assert "stream-service: DEPLOY_REPO must be set to deploy" in failed.stdout


def test_production_has_no_host_but_the_one_that_is_set(server: Server) -> None:
    environment = {k: v for k, v in server.environment.items() if k != "DEPLOY_HOST"}
    command = ("pm2", "deploy", "production", "setup")
    failed = server.attempt(*command, environment=environment)
    assert failed.returncode != 0
    assert "stream-service: DEPLOY_HOST must be set to deploy" in failed.stdout


def test_the_two_commands_of_the_first_version_deploy_the_service(server: Server) -> None:
    server.run(*SETUP)
    began = time.monotonic()
    server.run(*UPDATE_BY_FILE)
    print(f"\n  first deployment, virtual environment and all: {time.monotonic() - began:.0f} s")
    assert [status for _, status in server.instances()] == ["online", "online"]


def test_what_pm2_saves_holds_no_setting_of_the_file(server: Server) -> None:
    assert server.database.url not in server.dump.read_text()


def test_the_deployed_service_keeps_the_promises_of_the_api(server: Server) -> None:
    port = server.port
    assert ask(port, "GET", "/health") == (200, {"status": "UP"})
    assert ask(port, "GET", "/watch")[0] == 400
    assert [ask(port, "GET", "/watch", "walk")[0] for _ in range(4)] == [200, 200, 200, 401]
    status, listed = ask(port, "GET", "/streams", "walk")
    assert (status, listed and listed["active"]) == (200, 3)
    status, started = ask(port, "POST", "/streams", "walk-2")
    assert status == 201
    assert started is not None
    stream = f"/streams/{started['stream_id']}"
    beat = f"/streams/{started['lease_id']}/heartbeat"
    assert ask(port, "POST", beat, "walk-2")[0] == 200
    assert ask(port, "DELETE", stream, "walk-2")[0] == 204
    assert ask(port, "POST", beat, "walk-2")[0] == 410


def test_the_log_is_one_file_of_json_lines(server: Server) -> None:
    lines = server.log.read_text().splitlines()
    assert {"serving", "ready"} <= {json.loads(line)["event"] for line in lines}


async def test_a_reload_applies_the_settings_of_the_file_alone_and_loses_no_request(
    server: Server,
) -> None:
    before = server.instances()
    server.set_limit(5)
    by_hand = ("env", "STREAM_TTL_SECONDS=99", *RELOAD, "--update-env")
    async with steady_load(server.port) as load:
        await server.run_beside(*by_hand)
        await asyncio.sleep(1)
    assert server.variable("STREAM_LIMIT") == {"5"}
    assert server.variable("STREAM_TTL_SECONDS") == {None}
    load.report("pm2 reload stream-service")
    after = server.instances()
    assert server.variable("PROMETHEUS_MULTIPROC_DIR") == {"run"}
    assert not {pid for pid, _ in before} & {pid for pid, _ in after}
    assert [status for _, status in after] == ["online", "online"]
    assert load.fresh.sent > 20
    assert load.kept_alive.sent > 20
    assert load.lost == 0


async def test_two_reloads_at_once_behind_nginx_lose_no_request(server: Server) -> None:
    reload = ("ssh", *server.ssh, *RELOAD)
    with server.nginx() as port:
        async with steady_load(port) as load:
            # pm2 does one of them and refuses the other, or does one after the other.
            twice = (asyncio.to_thread(server.attempt, *reload) for _ in range(2))
            assert 0 in [done.returncode for done in await asyncio.gather(*twice)]
            await asyncio.sleep(1)
    load.report("pm2 reload stream-service twice at once, nginx in front")
    assert load.fresh.sent > 20
    assert load.kept_alive.sent > 20
    assert load.lost == 0


async def test_an_instance_is_online_only_when_its_store_answers(server: Server) -> None:
    before = {pid for pid, _ in server.instances()}
    served = server.events().count("serving")
    server.database.signal(signal.SIGSTOP)
    try:
        reload = asyncio.create_task(server.run_beside(*RELOAD))
        async with asyncio.timeout(60):
            while server.events().count("serving") == served:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.2)
        # It serves already. Long enough for a ready that is sent too early to arrive.
        await asyncio.sleep(2)
        states = {status for pid, status in server.instances() if pid not in before}
        assert ask(server.port, "GET", "/health/live")[0] == 200
        assert not reload.done()
    finally:
        server.database.signal(signal.SIGCONT)
    await reload
    assert states == {"launching"}
    assert [status for _, status in server.instances()] == ["online", "online"]


async def test_a_changed_commit_goes_live_without_loss(server: Server) -> None:
    server.set_limit(None)
    interpreters = server.interpreters()
    assert ask(server.port, "GET", "/health/second")[0] == 404
    server.change(
        "stream_service/app.py",
        'web.get("/health/live", health.live),',
        'web.get("/health/live", health.live), web.get("/health/second", health.live),',
    )
    # Another lock, so another virtual environment.
    server.change("requirements/serve.txt", "aiohttp==", "# changed\naiohttp==")
    server.push("Answer at a second path")
    async with steady_load(server.port) as load:
        await server.run_beside(*UPDATE)
        await asyncio.sleep(1)
    load.report("pm2 deploy staging (another commit, another lock)")
    assert ask(server.port, "GET", "/health/second") == (200, {"status": "UP"})
    assert server.interpreters().isdisjoint(interpreters)
    assert server.variable("STREAM_LIMIT") == {None}
    assert load.lost == 0


async def test_a_revert_brings_the_commit_before_back_without_loss(server: Server) -> None:
    server.set_limit(7)
    async with steady_load(server.port) as load:
        await server.run_beside(*UPDATE, "revert", "1")
        await asyncio.sleep(1)
    load.report("pm2 deploy staging revert 1")
    assert ask(server.port, "GET", "/health/second")[0] == 404
    assert server.variable("STREAM_LIMIT") == {"7"}
    assert load.lost == 0


async def test_when_pm2_is_killed_and_comes_back_only_its_new_processes_answer(
    server: Server,
) -> None:
    server.set_limit(None)
    before = [pid for pid, _ in server.instances()]
    os.kill(int((server.dump.parent / "pm2.pid").read_text()), signal.SIGKILL)
    await asyncio.to_thread(server.run_there, "pm2", "resurrect")
    async with asyncio.timeout(60):
        while any(os.path.exists(f"/proc/{pid}") for pid in before):  # noqa: ASYNC110, ASYNC240, PTH110
            await asyncio.sleep(0.1)
    after = server.instances()
    assert not {pid for pid, _ in after} & set(before)
    assert [status for _, status in after] == ["online", "online"]
    assert server.variable("STREAM_LIMIT") == {None}
    assert ask(server.port, "GET", "/health/live")[0] == 200


def test_a_release_whose_processes_keep_ending_fails_and_the_next_one_brings_them_back(
    server: Server,
) -> None:
    # The rehearsal listens on 127.0.0.1. This address is no machine's: RFC 5737.
    server.add_setting("HOST", "192.0.2.1")
    failed = server.attempt(*UPDATE)
    assert failed.returncode != 0
    assert "stream-service: not every new process stays up" in failed.stdout
    server.set_limit(None)
    server.run(*UPDATE)
    assert [status for _, status in server.instances()] == ["online", "online"]
    assert ask(server.port, "GET", "/health/ready")[0] == 200


def test_a_release_whose_processes_have_other_settings_fails(server: Server) -> None:
    # The file changes while the last process starts.
    server.change(
        "deploy/release.sh",
        "# Each process has",
        "echo STREAM_LIMIT=9 >>../shared/stream-service.env\n# Each process has",
    )
    server.push("Change a setting late")
    failed = server.attempt(*UPDATE)
    assert failed.returncode != 0
    assert "does not have the settings of the file" in failed.stdout


async def test_a_commit_that_cannot_start_is_not_let_live(server: Server) -> None:
    before = server.instances()
    server.change(
        "stream_service/process/server.py", "async def serve(", "async def does_not_serve("
    )
    server.push("Break the start")
    async with steady_load(server.port) as load:
        failed = await asyncio.to_thread(server.attempt, *UPDATE)
    load.report("pm2 deploy of a commit that cannot start")
    assert failed.returncode != 0
    assert "this version is not let live" in failed.stdout
    assert server.instances() == before
    assert load.lost == 0
