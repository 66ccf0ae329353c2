"""What `docs/databases.md` promises of the database: held to what is sent."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from stream_service.settings import Settings
from stream_service.store import MongoStore, Put
from stream_service.streams import Stream, new_secret, stream_id_of, token_of, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Commands

PAGE = Path(__file__).parent.parent.parent / "docs" / "databases.md"

NEEDS = {
    "hello": set[str](),
    "ping": set[str](),
    "listIndexes": {"listIndexes"},
    "createIndexes": {"createIndex"},
    "find": {"find"},
    "aggregate": {"find"},
    "update": {"update"},
    "delete": {"remove"},
}
"""The privileges that MongoDB asks for a command; an upsert needs `insert` too."""


async def test_the_least_role_names_each_privilege_that_is_used_and_no_other(
    connect: Callable[..., MongoStore], commands: Commands
) -> None:
    store, now = connect(), utc_now()
    stream = Stream("s", stream_id_of(0, token_of(new_secret())), now, now + timedelta(minutes=1))
    await store.prepare()
    await store.clock()
    await store.meet("one", {"forget_at": now}, now)
    await store.leave("one", now)
    await store.write([Put(stream)], now)
    await store.read(["s"])
    await store.renew([stream.place], now, stream.expires_at)
    await store.slots([stream.place])
    await store.end([stream.place], now)
    await store.count(now, now)
    await store.forget("s", now)

    used = set[str]()
    for name, command in commands.sent:
        used |= NEEDS[name]
        if any(update.get("upsert") for update in command.get("updates", ())):
            used.add("insert")
    listed = re.search(r"actions: (\[[^]]*\])", PAGE.read_text())
    assert listed is not None
    assert set(re.findall(r'"(\w+)"', listed[1])) == used


def test_each_url_of_the_page_is_one_that_the_service_takes(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("anything: it is read when the database is connected to")
    urls = re.findall(r"`(mongodb(?:\+srv)?://[^`]*)`", PAGE.read_text())
    assert len(urls) >= 7
    for url in urls:
        settings = Settings.from_environment(
            {"MONGO_URL": url.replace("/etc/ssl/mongo-ca.pem", str(authority))}
        )
        assert settings.mongo_db == "stream_service", url
