"""What the service tells its operator: metrics, logs, traces and the problems answered last.

May import the core. Never sees a session id, token or key.
"""
