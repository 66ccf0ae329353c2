"""Lease ids: who holds one renews and ends its stream, without a login.

A lease id is `<slot>-<56 characters>`: secret (16 bytes), digest of the account (18) and a check
value (8), in base64url. The stream's public id is its slot and a digest of the secret, so the
database never has the secret, and a heartbeat is one look-up by the primary key.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from binascii import a2b_base64
from hashlib import blake2b
from hmac import compare_digest
from typing import TYPE_CHECKING

from aiohttp import web

from stream_service.settings import MAX_LIMIT
from stream_service.streams import SECRET_BYTES, Place, stream_id_of, token_of

if TYPE_CHECKING:
    from stream_service.api.digests import Digests

_CHECK_BYTES = 8
_BODY_BYTES = SECRET_BYTES + 18
_LENGTH = 56
_PREFIXES = {str(slot): b"%d-" % slot for slot in range(MAX_LIMIT)}
"""What is checked beside the body, by the text of the slot."""

_URLSAFE = bytes.maketrans(b"-_+/", b"+/!!")
"""To what `a2b_base64` reads; of one id there is one spelling."""


class LeaseIds:
    """Makes and reads lease ids."""

    def __init__(self, digests: Digests) -> None:
        """Make and read them under the key of these digests.

        Where there is a key, nothing that was not made here passes `place_of`, so that a made-up id
        costs no command. Without one, the check value finds slips alone.
        """
        self._digests = digests
        # Copied for each id, which is quicker than to begin with the key each time.
        self._keyed = blake2b(digest_size=_CHECK_BYTES, key=digests.key_for("lease id"))

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
        check = self._check(_PREFIXES[slot] + body)
        return f"{slot}-{urlsafe_b64encode(body + check).decode()}"

    def place_of(self, text: str) -> Place | None:
        """Where the stream of this lease is; None for what is no lease id of ours."""
        slot, _, rest = text.partition("-")
        prefix = _PREFIXES.get(slot)
        if prefix is None or len(rest) != _LENGTH or not rest.isascii():
            return None
        try:
            raw = a2b_base64(rest.encode().translate(_URLSAFE))
        except ValueError:
            return None
        body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        # It leaves out what it does not know: then too little is left for the check.
        if len(body) != _BODY_BYTES or not compare_digest(check, self._check(prefix + body)):
            return None
        secret, session = body[:SECRET_BYTES], body[SECRET_BYTES:].hex()
        return Place(session, stream_id_of(slot, token_of(secret)))

    def _check(self, checked: bytes) -> bytes:
        check = self._keyed.copy()
        check.update(checked)
        return check.digest()


LEASE_IDS = web.AppKey("lease_ids", LeaseIds)
