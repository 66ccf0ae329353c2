"""What handlers and pages find in the application of the core, which knows no framework."""

from aiohttp import web

from stream_service.limiter import Limiter
from stream_service.settings import Settings
from stream_service.store import MongoStore

SETTINGS = web.AppKey("settings", Settings)
STORE = web.AppKey("store", MongoStore)
LIMITER = web.AppKey("limiter", Limiter)
