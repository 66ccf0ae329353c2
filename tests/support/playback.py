"""Keys for playback tokens, made anew for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

if TYPE_CHECKING:
    from pathlib import Path

    PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

KINDS = ("ed25519", "p256")


def new_key(kind: str) -> PrivateKey:
    """A private key: of `KINDS`, or one that is not accepted."""
    match kind:
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65_537, 2048)


def write_key(
    path: Path, kind: str | PrivateKey = "ed25519", *, passphrase: bytes | None = None
) -> Path:
    """Write a private key for its owner alone; returns the path."""
    key = new_key(kind) if isinstance(kind, str) else kind
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase)
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


def write_public_key(path: Path) -> Path:
    """Write a public key, which signs nothing; returns the path."""
    public = new_key("p256").public_key()
    path.touch(mode=0o600)
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path
