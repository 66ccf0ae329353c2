"""A process that serves: socket, signals, readiness, drain and the embedded database.

May import everything; only `__main__` imports it.
"""
