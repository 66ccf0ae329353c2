"""What handlers find in the application."""

from aiohttp import web

from stream_service.api.digests import Digests
from stream_service.limiter import Limiter
from stream_service.settings import Settings
from stream_service.store import MongoStore

SETTINGS = web.AppKey("settings", Settings)
DIGESTS = web.AppKey("digests", Digests)
STORE = web.AppKey("store", MongoStore)
LIMITER = web.AppKey("limiter", Limiter)
