"""Playback tokens: signed, so that a content server can tell by itself that a stream is alive.

Imported only where there are keys for them (`PLAYBACK_KEYS`): without, what signs them is not even
loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import jwt
import msgspec
from cachetools import LRUCache
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from stream_service.api.playback_claims import Playback, PlaybackRefusedError
from stream_service.settings import SettingsError
from stream_service.streams import is_stream_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stream_service.limiter import Clock, Renewed
    from stream_service.streams import Stream

ISSUER = "stream-service"

MAX_TOKEN_LENGTH = 4096
"""Longer than any token of ours: 200 characters of `content` take up to 3,200."""

CHECKED_BYTES = 32 * 1024 * 1024
"""How much memory a process spends on remembering which tokens' signatures are right."""

_CHECKED_OVERHEAD_BYTES = 590
"""What a token in memory costs beside its label: digest, claims and entry, by `tracemalloc`."""

_MAX_PEM_BYTES = 16 * 1024
# A head of ours has some 110 characters; none may be so long that its nesting ends in an error.
_SHAPE = re.compile(r"[A-Za-z0-9_-]{1,200}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_CLAIMS = ["iss", "sub", "iat", "exp", "ref"]


@dataclass(frozen=True, slots=True)
class _Key:
    """A key pair with the one algorithm that it is for.

    Attributes:
        kid: Thumbprint of the public key (RFC 7638): the same wherever this key is used.
        algorithm: As JWS names it.
        private: Signs.
        public: Verifies.
        jwk: The public key as it is published.
        references: Encrypts, for the service alone, whose stream a token is for.
    """

    kid: str
    algorithm: Literal["ES256", "EdDSA"]
    private: Any
    public: Any
    jwk: dict[str, Any]
    references: AESSIV


class PlaybackTokens:
    """Signs tokens for streams, and checks tokens without the database."""

    def __init__(self, keys: Sequence[_Key], audience: str | None, clock: Clock) -> None:
        self._signing = keys[0]
        self._keys = {key.kid: key for key in keys}
        self._audience = audience
        self._clock = clock
        # By digest: a token takes ten times the memory. All keys stay for the life of a process,
        # so that what was signed right stays so.
        self._checked: LRUCache[bytes, Playback] = LRUCache(CHECKED_BYTES, _size)

    @classmethod
    def load(cls, paths: Sequence[Path], audience: str | None, clock: Clock) -> PlaybackTokens:
        """Read the keys. The first signs, all are accepted and published.

        Args:
            paths: Of PEM files, each with a private key of P-256 or Ed25519.
            audience: For `aud`, or None.
            clock: Tells the time.

        Raises:
            SettingsError: A file cannot be used; the message says which, and how to mend it.
        """
        keys = [_load(path) for path in paths]
        if len({key.kid for key in keys}) < len(keys):
            raise SettingsError("PLAYBACK_KEYS names the same key twice")
        return cls(keys, audience, clock)

    def published(self) -> dict[str, Any]:
        """The public keys, as a JWK Set (RFC 7517)."""
        return {"keys": [key.jwk for key in self._keys.values()]}

    def issue(self, stream: Stream | Renewed) -> str:
        """A token that is good until the end of the stream's lease."""
        key = self._signing
        stream_id = stream.stream_id
        # Whose stream it is, for `live` checks: the store looks streams up by it. AES-SIV needs no
        # nonce that could repeat; bound to the stream, it differs between two of one account.
        reference = key.references.encrypt(bytes.fromhex(stream.session), [stream_id.encode()])
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": stream_id,
            "iat": int(self._clock().timestamp()),
            "exp": math.ceil(stream.expires_at.timestamp()),
            "ref": _base64url(reference),
        }
        if self._audience is not None:
            claims["aud"] = self._audience
        if stream.content is not None:
            claims["content"] = stream.content
        token = jwt.encode(claims, key.private, key.algorithm, headers={"kid": key.kid})
        return _with_low_s(token) if key.algorithm == "ES256" else token

    def check(self, token: str, *, even_expired: bool = False) -> Playback:
        """What a token says. Only one that is new here costs a verification of its signature.

        Args:
            token: As it was sent.
            even_expired: Whether one whose time is over will do, since the store is asked next.

        Raises:
            PlaybackRefusedError: It is not one of ours, or its time is over.
        """
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise PlaybackRefusedError("invalid")
        now = self._clock().timestamp()
        digest = hashlib.blake2b(token.encode(), digest_size=24).digest()
        playback = self._checked.get(digest)
        if playback is None:
            playback = self._verified(token, None if even_expired else now)
            self._checked[digest] = playback
        if playback.expires_at <= now and not even_expired:
            del self._checked[digest]
            raise PlaybackRefusedError("expired")
        return playback

    def _verified(self, token: str, now: float | None) -> Playback:
        key = self._key_of(token, now)
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=ISSUER,
                # The end is judged each time, by our own clock.
                options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
            )
            stream_id, content = claims["sub"], claims.get("content")
            content = None if content is None else _harmless(content)
            reference = urlsafe_b64decode(claims["ref"] + "==")
            session = key.references.decrypt(reference, [stream_id.encode()]).hex()
        except (jwt.PyJWTError, InvalidTag, ValueError, TypeError, AttributeError):
            # What the libraries say may quote the token.
            raise PlaybackRefusedError("invalid") from None
        if not is_stream_id(stream_id):
            raise PlaybackRefusedError("invalid")
        return Playback(session, stream_id, content, claims["exp"])

    def _key_of(self, token: str, now: float | None) -> _Key:
        """The key that a token has to be verified by.

        This only refuses, and in microseconds, most of what would cost a verification in vain; it
        accepts nothing.
        """
        if not _SHAPE.fullmatch(token):
            raise PlaybackRefusedError("invalid")
        try:
            header, claims = (
                msgspec.json.decode(urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]
            )
            key = self._keys.get(header["kid"])
            if key is None or header["alg"] != key.algorithm:
                raise PlaybackRefusedError("invalid")
            if key.algorithm == "ES256" and token != _with_low_s(token):
                raise PlaybackRefusedError("invalid")
            if claims["iss"] != ISSUER or claims.get("aud") != self._audience:
                raise PlaybackRefusedError("invalid")
            if claims["exp"] <= (-math.inf if now is None else now):
                raise PlaybackRefusedError("expired")
        except (ValueError, TypeError, LookupError, AttributeError):
            raise PlaybackRefusedError("invalid") from None
        return key


def _with_low_s(token: str) -> str:
    """The same token with the lower of the two numbers s that its ECDSA signature can have."""
    signed, _, signature = token.rpartition(".")
    r, s = (pair := urlsafe_b64decode(signature + "=="))[:32], int.from_bytes(pair[32:])
    return f"{signed}.{_base64url(r + min(s, abs(_P256_ORDER - s)).to_bytes(32))}"


def _size(playback: Playback) -> int:
    # What the label holds is ASCII: one byte for each character.
    return _CHECKED_OVERHEAD_BYTES + len(playback.content or "")


def _load(path: Path) -> _Key:
    def wrong(why: str) -> SettingsError:
        return SettingsError(f"PLAYBACK_KEYS: {path} {why}")

    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise wrong("is no file")
        if about.st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise wrong("can be read or written by everybody: chmod 600, or 640 for a group")
        with path.open("rb") as file:
            pem = file.read(_MAX_PEM_BYTES)
    except OSError as error:
        raise wrong(f"cannot be read: {error.strerror}") from None
    try:
        private = load_pem_private_key(pem, None)
    except TypeError:
        raise wrong("is encrypted: write it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        # What the library says may quote the file.
        raise wrong("holds no private key in PEM: openssl genpkey -algorithm ed25519") from None
    if isinstance(private, Ed25519PrivateKey):
        return _ed25519(private)
    if isinstance(private, EllipticCurvePrivateKey) and isinstance(private.curve, SECP256R1):
        return _p256(private)
    raise wrong("holds another kind of key: it must be of P-256 or Ed25519")


def _ed25519(private: Ed25519PrivateKey) -> _Key:
    public = private.public_key()
    members = OKPAlgorithm.to_jwk(public, as_dict=True)
    kid = _thumbprint(members, "crv", "kty", "x")
    return _Key(
        kid,
        "EdDSA",
        private,
        public,
        _published(members, kid, "EdDSA"),
        _cipher(private.private_bytes_raw()),
    )


def _p256(private: EllipticCurvePrivateKey) -> _Key:
    public = private.public_key()
    members = ECAlgorithm.to_jwk(public, as_dict=True)
    kid = _thumbprint(members, "crv", "kty", "x", "y")
    return _Key(
        kid,
        "ES256",
        private,
        public,
        _published(members, kid, "ES256"),
        _cipher(private.private_numbers().private_value.to_bytes(32)),
    )


def _published(members: dict[str, Any], kid: str, algorithm: str) -> dict[str, Any]:
    return {
        **{name: members[name] for name in ("kty", "crv", "x", "y") if name in members},
        "kid": kid,
        "alg": algorithm,
        "use": "sig",
    }


def _thumbprint(members: dict[str, Any], *required: str) -> str:
    """RFC 7638: the digest of the required members in this order, without blanks."""
    canonical = json.dumps({name: members[name] for name in required}, separators=(",", ":"))
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _harmless(content: str) -> str:
    """A label for a header, and as one segment of a path: RFC 3986, 2.1, `decodeURIComponent`."""
    # As a segment "." and ".." are no name; quote() would leave them.
    return content.replace(".", "%2E") if content in (".", "..") else quote(content, safe="")


def _cipher(secret: bytes) -> AESSIV:
    derived = HKDF(hashes.SHA256(), 64, salt=None, info=b"stream-service playback reference")
    return AESSIV(derived.derive(secret))


def _base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
