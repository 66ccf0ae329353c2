"""Playback tokens to be checked: of streams that the null database shows as active."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.null_mongod import stream_id_in
from stream_service.api.digests import Digests
from stream_service.api.playback_tokens import PlaybackTokens
from stream_service.streams import Stream, utc_now

if TYPE_CHECKING:
    from pathlib import Path

ED25519, P256 = "Ed25519", "P-256"


def write_key(path: Path, kind: str) -> None:
    """Write a new private key of one of these kinds, for its owner alone."""
    key = Ed25519PrivateKey.generate() if kind == ED25519 else generate_private_key(SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_tokens(path: Path, key: Path, count: int) -> None:
    """Write tokens that are good for an hour, one a line.

    Args:
        path: The file.
        key: Signs them.
        count: How many, each of a stream of its own.
    """
    tokens, digest = PlaybackTokens.load([key], None, utc_now), Digests()
    now, word = utc_now(), secrets.token_hex(6)
    with path.open("w") as file:
        for number in range(count):
            session = digest(f"{word}-{number}")
            stream = Stream(
                session=session,
                stream_id=stream_id_in(0),
                device=None,
                content="film-42",
                started_at=now,
                expires_at=now + timedelta(hours=1),
            )
            print(tokens.issue(stream), file=file)
