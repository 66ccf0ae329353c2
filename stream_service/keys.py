"""What handlers find in the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from stream_service.api.digests import Digests
from stream_service.api.lease_ids import LeaseIds
from stream_service.limiter import Limiter
from stream_service.settings import Settings
from stream_service.store import MongoStore

if TYPE_CHECKING:
    from stream_service.api.playback_tokens import PlaybackTokens

SETTINGS = web.AppKey("settings", Settings)
DIGESTS = web.AppKey("digests", Digests)
LEASE_IDS = web.AppKey("lease_ids", LeaseIds)
STORE = web.AppKey("store", MongoStore)
LIMITER = web.AppKey("limiter", Limiter)
# Absent where there are no keys for it; so what it is made of is not imported here either.
PLAYBACK: web.AppKey[PlaybackTokens] = web.AppKey("playback")
