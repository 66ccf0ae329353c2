"""Decides whether a session may watch one more stream, and keeps the count right."""

__version__ = "1.0.0"
