"""Digests: what is stored in place of a secret."""

from __future__ import annotations

import os
from hashlib import blake2b

from aiohttp import web


class Digests:
    """Makes digests of 144 bits, in hexadecimal.

    Without a key, somebody who has a copy of the database can find a session id that has little to
    guess, such as a number, by trying them all. With a key, they need the key as well.
    """

    def __init__(self, key: str | None = None) -> None:
        """Make digests under this key.

        Args:
            key: A secret of the deployment, the same in all its processes, or None.
        """
        self._key = None if key is None else blake2b(os.fsencode(key)).digest()
        self._without_context = self.key_for("")

    def __call__(self, secret: str, context: str = "") -> str:
        """Digest a secret.

        Args:
            secret: A session id, an idempotency key or a device id, which must never be kept in
                clear.
            context: Up to 64 characters of ASCII. Makes digests of the same secret differ where it
                differs.
        """
        key = self.key_for(context) if context else self._without_context
        return blake2b(secret.encode(), digest_size=18, key=key).hexdigest()

    def key_for(self, context: str) -> bytes:
        """The key of the digests in this context, up to 64 bytes."""
        if self._key is None:
            return context.encode()
        return blake2b(context.encode(), digest_size=32, key=self._key).digest()


DIGESTS = web.AppKey("digests", Digests)
