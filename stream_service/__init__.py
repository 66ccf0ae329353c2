"""Decides whether a session may watch one more stream, and keeps the count right."""

import sys

# PyMongo looks for pyOpenSSL, which is not installed, and loads `cryptography` first, which only
# playback tokens need: 9 MB for nothing. Without it, it takes Python's own ssl, as it would anyway.
sys.modules.setdefault("pymongo.pyopenssl_context", None)  # type: ignore[arg-type]

__version__ = "1.0.0"
