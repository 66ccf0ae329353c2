"""The HTTP API: reads and checks requests, asks the limiter, writes answers and problems.

A header or a body is checked in `inputs`, the API is described in `openapi.yaml`. Imports the core,
never `pages`, `telemetry` or `process`.
"""
