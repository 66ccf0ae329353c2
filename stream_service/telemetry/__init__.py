"""What operators are told: metrics, logs, traces, and the problems answered last.

Told by the limiter and the API through what the app hands in; imports the core, never `api`. No
session id, token or key may get here.
"""
