"""Lease ids: who holds one renews and ends its stream, without a login.

A lease id is `<slot>-<56 characters>`: secret (16 bytes), digest of the account (18) and a check
value (8), in base64url. The stream's public id is its slot and a digest of the secret, so the
database never has the secret, and a heartbeat is one look-up by the primary key.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from hmac import compare_digest
from typing import TYPE_CHECKING

from aiohttp import web

from stream_service.streams import SECRET_BYTES, Place, stream_id_of, token_of

if TYPE_CHECKING:
    from stream_service.api.digests import Digests

_CHECK_BYTES = 8
_FORM = re.compile(r"(0|[1-9][0-9]?)-([A-Za-z0-9_-]{56})")


class LeaseIds:
    """Makes and reads lease ids."""

    def __init__(self, digests: Digests) -> None:
        """Make and read them under the key of these digests.

        Where there is a key, nothing that was not made here passes `place_of`, so that a made-up id
        costs no command. Without one, the check value finds slips alone.
        """
        self._digests = digests
        self._check_key = digests.key_for("lease id")

    def secret_of(self, idempotency_key: str, salt: str) -> bytes:
        """The secret of the lease that a start with this key gets, at its replays too.

        Args:
            idempotency_key: As it was sent.
            salt: Random, kept with the stream: the same key may start another stream once this one
                is over.
        """
        return bytes.fromhex(self._digests(idempotency_key, f"lease {salt}"))[:SECRET_BYTES]

    def lease_id(self, place: Place, secret: bytes) -> str:
        """The id of the lease of this stream."""
        slot = place.stream_id.partition("-")[0]
        body = secret + bytes.fromhex(place.session)
        return f"{slot}-{urlsafe_b64encode(body + self._check(slot, body)).decode()}"

    def place_of(self, text: str) -> Place | None:
        """Where the stream of this lease is; None for what is no lease id of ours."""
        form = _FORM.fullmatch(text)
        if form is None:
            return None
        slot, raw = form[1], urlsafe_b64decode(form[2])
        body = raw[:-_CHECK_BYTES]
        if not compare_digest(raw[-_CHECK_BYTES:], self._check(slot, body)):
            return None
        secret, session = body[:SECRET_BYTES], body[SECRET_BYTES:].hex()
        return Place(session, stream_id_of(int(slot), token_of(secret)))

    def _check(self, slot: str, body: bytes) -> bytes:
        said = slot.encode() + b"-" + body
        return blake2b(said, digest_size=_CHECK_BYTES, key=self._check_key).digest()


LEASE_IDS = web.AppKey("lease_ids", LeaseIds)
