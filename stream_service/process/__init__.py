"""A process that serves: socket, signals, readiness, draining and the embedded database.

May use everything; only `__main__` uses it.
"""
