"""What handlers find in the application."""

from aiohttp import web

from stream_service.limiter import Limiter
from stream_service.settings import Settings
from stream_service.store import MongoStore
from stream_service.telemetry.metrics import Metrics, Sampler
from stream_service.telemetry.recent_problems import RecentProblems

SETTINGS = web.AppKey("settings", Settings)
STORE = web.AppKey("store", MongoStore)
METRICS = web.AppKey("metrics", Metrics)
SAMPLER = web.AppKey("sampler", Sampler)
RECENT = web.AppKey("recent", RecentProblems)
LIMITER = web.AppKey("limiter", Limiter)
