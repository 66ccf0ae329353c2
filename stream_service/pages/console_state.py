"""What the console shows: counts and kinds, and never an account."""

from __future__ import annotations

import os
from math import isnan
from typing import TYPE_CHECKING

from stream_service import __version__
from stream_service.api.health import HEALTH
from stream_service.api.keys import SETTINGS
from stream_service.api.representation import json_response, timestamp
from stream_service.streams import utc_now
from stream_service.telemetry.history import HISTORY, INTERVAL_SECONDS, WINDOW_SECONDS
from stream_service.telemetry.metrics import METRICS, SAMPLER
from stream_service.telemetry.recent_problems import RECENT
from stream_service.telemetry.shared_files import VARIABLE

if TYPE_CHECKING:
    from aiohttp import web

_STARTED_AT = utc_now()


async def console_state(request: web.Request) -> web.Response:
    """`GET /console/state`: the figures of now and of the last 15 minutes."""
    app = request.app
    processes = app[HEALTH].processes
    await app[SAMPLER].sample()
    figures: dict[str, dict[str, float]] = {"starts": {}, "heartbeats": {}, "ends": {}}
    streams: dict[str, float | None] = {"active": None, "silent": None}
    # Some figures are told by platform too.
    for metric in await app[METRICS].collect():
        name = metric.name.removeprefix("stream_service_")
        for sample in metric.samples:
            if name in figures and sample.name.endswith("_total"):
                label = next(iter(sample.labels.values()))
                figures[name][label] = figures[name].get(label, 0) + sample.value
            elif (which := name.removesuffix("_streams")) in streams and not isnan(sample.value):
                streams[which] = (streams[which] or 0) + sample.value
    history = app[HISTORY].columns()
    history["at"] = [timestamp(at) for at in history["at"]]
    answers = await app[HISTORY].ask_database()
    since = app[HISTORY].unreachable_since
    return json_response(
        {
            "version": __version__,
            "process": processes.id,
            "started_at": timestamp(_STARTED_AT),
            "scope": "directory" if VARIABLE in os.environ else "process",
            "now": timestamp(utc_now()),
            "limit": app[SETTINGS].stream_limit,
            "enforce": app[SETTINGS].enforce,
            "lease_seconds": app[SETTINGS].stream_ttl_seconds,
            "database": "UP" if answers else "DOWN",
            "unreachable_since": None if since is None else timestamp(since),
            **streams,
            **figures,
            "history": {
                "interval_seconds": INTERVAL_SECONDS,
                "window_seconds": WINDOW_SECONDS,
                **history,
            },
            "processes": [
                {
                    "name": one["name"],
                    "started_at": timestamp(one["started_at"]),
                    "settings": one["settings"],
                    "clock": one["clock"],
                }
                for one in (processes.own, *processes.others)
                if one
            ],
            "problems": [
                {**problem._asdict(), "last": timestamp(problem.last)}
                for problem in app[RECENT].of_the_last_hour()
            ],
        }
    )
