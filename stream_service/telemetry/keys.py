"""What the pages find in the application of what it tells."""

from aiohttp import web

from stream_service.telemetry.history import History
from stream_service.telemetry.metrics import Metrics, Sampler, Scrapes
from stream_service.telemetry.outages import Outages
from stream_service.telemetry.recent_problems import RecentProblems

METRICS = web.AppKey("metrics", Metrics)
SAMPLER = web.AppKey("sampler", Sampler)
SCRAPES = web.AppKey("scrapes", Scrapes)
OUTAGES = web.AppKey("outages", Outages)
RECENT = web.AppKey("recent", RecentProblems)
HISTORY = web.AppKey("history", History)
