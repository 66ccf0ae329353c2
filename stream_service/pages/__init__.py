"""What people and programs are served around the API: pages, static files, the player client.

May import `api`, `telemetry` and the core. No decision about a stream is made here.
"""
