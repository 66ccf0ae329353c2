"""The table of contents: what the application is made of."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from stream_service.api import handlers, health
from stream_service.api.access import token_required
from stream_service.api.digests import DIGESTS, Digests
from stream_service.api.health import HEALTH, Health
from stream_service.api.heartbeats import heartbeats
from stream_service.api.inputs import KEY_HEADER, SESSION_HEADER
from stream_service.api.keys import LIMITER, SETTINGS, STORE
from stream_service.api.lease_ids import LEASE_IDS, LeaseIds
from stream_service.api.playback import PLAYBACK, TOKEN_HEADER, URI_HEADER, playback_routes
from stream_service.api.policy import PLANS, Plans, load_policy
from stream_service.api.problems import problems
from stream_service.limiter import Limiter, Observer, Observers
from stream_service.pages.routes import page_routes
from stream_service.processes import Processes
from stream_service.settings import SettingsError
from stream_service.store import MongoStore
from stream_service.streams import utc_now
from stream_service.telemetry.background import watched
from stream_service.telemetry.events import EVENTS_OUTPUT, Events
from stream_service.telemetry.history import HISTORY, History
from stream_service.telemetry.line_writer import Lines
from stream_service.telemetry.logs import OUTPUT
from stream_service.telemetry.metrics import METRICS, SAMPLER, Metrics, Sampler
from stream_service.telemetry.outages import OUTAGES, Outages
from stream_service.telemetry.recent_problems import RECENT, RecentProblems
from stream_service.telemetry.request_log import LEAST_STATUS, request_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream_service.api.playback_tokens import PlaybackTokens
    from stream_service.limiter import Clock
    from stream_service.settings import Settings
    from stream_service.streams import StoreUnavailableError


_SECRET_HEADERS = (SESSION_HEADER, KEY_HEADER, TOKEN_HEADER, URI_HEADER, hdrs.AUTHORIZATION)


def create_app(
    settings: Settings,
    *,
    store: MongoStore | None = None,
    clock: Clock = utc_now,
) -> web.Application:
    """Make the application.

    Args:
        settings: Checked settings.
        store: Where the streams are; by default a store on `settings.mongo_url`, closed with the
            application.
        clock: Tells the time.

    Raises:
        SettingsError: The driver cannot use `settings.mongo_url`, or a key or the policy cannot be
            used.
    """
    app = web.Application()
    app[METRICS] = metrics = Metrics(settings.platforms)
    OUTPUT.on_dropped = partial(metrics.on_lines_dropped, "log")
    app[RECENT] = recent = RecentProblems(clock)

    def unavailable(error: StoreUnavailableError) -> None:
        metrics.on_store_error(error)
        app[OUTAGES].failed(error)

    app.middlewares.extend(
        [
            request_log(
                app,
                metrics.on_request,
                secret_headers=_SECRET_HEADERS,
                least_status=LEAST_STATUS[settings.request_log],
            ),
            problems(on_problem=recent.add, on_unavailable=unavailable),
            *token_required(settings.gateway_tokens, settings.operator_tokens),
        ]
    )
    if store is None:
        retention = timedelta(seconds=settings.stream_retention_seconds)
        store = MongoStore.connect(settings.mongo_url, settings.mongo_db, retention)
        app.cleanup_ctx.append(_closing_store)
    app.cleanup_ctx.append(_finishing)
    app[SETTINGS] = settings
    app[DIGESTS] = digests = Digests(settings.digest_key)
    app[LEASE_IDS] = LeaseIds(digests)
    tokens = _playback_tokens(settings, clock)
    if tokens is not None:
        app[PLAYBACK] = tokens
    if settings.policy_file is not None:
        app[PLANS] = Plans(load_policy(settings.policy_file), metrics.on_unknown_plan)
    app[STORE] = store
    lease = timedelta(seconds=settings.stream_ttl_seconds)
    observer: Observer = metrics
    if settings.events != "0":
        events = Events(Lines(EVENTS_OUTPUT), clock, with_labels=settings.events == "labels")
        EVENTS_OUTPUT.on_dropped = partial(metrics.on_lines_dropped, "events")
        app.cleanup_ctx.insert(0, events.written_at_the_end)
        observer = Observers(metrics, events)
    app[LIMITER] = Limiter(
        store, lease=lease, clock=clock, observer=observer, with_labels=tokens is not None
    )
    key_ids = [] if tokens is None else [key["kid"] for key in tokens.published()["keys"]]
    processes = Processes(
        store,
        health.settings_to_agree_on(settings, digests, key_ids),
        lease=lease,
        clock=clock,
        other_digest_key=settings.digest_key_change,
    )
    app[HEALTH] = Health(processes)
    app[OUTAGES] = Outages(processes.meet, settings.database, metrics.on_task_failure)
    app[SAMPLER] = sampler = Sampler(store, metrics, lease=lease, clock=clock)
    app[HISTORY] = History(metrics.collect, app[HEALTH].database_answers, sampler.active, clock)
    app.cleanup_ctx.append(_keeping_history)
    app.add_routes(
        [
            # Routes are tried in this order, and nearly all requests are heartbeats.
            web.post("/streams/{lease_id}/heartbeat", handlers.heartbeat),
            web.post("/heartbeats", heartbeats),
            web.post("/streams/{stream_id}/stop", handlers.stop),
            web.get("/streams/{stream_id}", handlers.show),
            web.delete("/streams/{stream_id}", handlers.stop),
            web.post("/streams", handlers.start),
            web.get("/streams", handlers.list_active),
            web.delete("/streams", handlers.stop_all),
            # HEAD must not start a stream.
            web.get("/watch", handlers.watch, allow_head=False),
            web.get("/health", health.health),
            web.get("/health/ready", health.ready),
            web.get("/health/live", health.live),
            *playback_routes(tokens),
            *page_routes(settings),
        ]
    )
    return app


def _playback_tokens(settings: Settings, clock: Clock) -> PlaybackTokens | None:
    if not settings.playback_keys:
        if settings.film_url is not None:
            raise SettingsError("FILM_URL needs PLAYBACK_KEYS, which sign the token in it")
        return None
    # Here and not above: without keys, what signs tokens is not loaded.
    from stream_service.api.playback_tokens import PlaybackTokens  # noqa: PLC0415

    return PlaybackTokens.load(settings.playback_keys, settings.playback_audience, clock)


async def _closing_store(app: web.Application) -> AsyncIterator[None]:
    yield
    app[STORE].close()


async def _keeping_history(app: web.Application) -> AsyncIterator[None]:
    keeping = asyncio.create_task(
        watched("history", app[HISTORY].keep, app[METRICS].on_task_failure)
    )
    yield
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


async def _finishing(app: web.Application) -> AsyncIterator[None]:
    yield
    app[OUTAGES].close()
    await app[LIMITER].finish()
    await app[HEALTH].close()
