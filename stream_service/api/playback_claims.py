"""What a playback token says, and why one is refused, without what signs and checks them."""

from __future__ import annotations

from typing import Literal, NamedTuple

Refused = Literal["missing", "invalid", "expired", "stopped", "replaced", "unknown"]


class PlaybackRefusedError(Exception):
    """A playback token is not good. It is never quoted.

    Attributes:
        reason: Why; of a token alone "missing", "invalid" or "expired", of its stream the others.
    """

    def __init__(self, reason: Refused) -> None:
        super().__init__(reason)
        self.reason: Refused = reason


class Playback(NamedTuple):
    """What a token says that was found good.

    Attributes:
        session: Digest of the session whose stream it is.
        stream_id: Of the stream.
        content: Label that the client gave, in a form that a header can hold, or None.
        expires_at: End of the lease, rounded up, in seconds since 1970.
    """

    session: str
    stream_id: str
    content: str | None
    expires_at: int
