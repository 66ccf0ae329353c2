"""Pages and files: /docs, /console, /metrics, the player client, and what they load.

May use `api`, `telemetry` and the core. Nothing here decides about a stream.
"""
