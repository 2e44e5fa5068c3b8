"""Encryption at rest of what must be read back: the tokens that we show to peers."""

import os
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connector.errors import ConfigError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class Cipher:
    """AES-256-GCM, bound to the row: a ciphertext copied to another peer does not decrypt.

    Shapes: nonce of 12 random bytes, ciphertext, tag of 16 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError(f"DB_ENCRYPTION_SECRET must be base64 of {KEY_BYTES} bytes")
        self._aead = AESGCM(key)

    @classmethod
    def from_base64(cls, text: str) -> "Cipher":
        """Read DB_ENCRYPTION_SECRET. Raises ConfigError."""
        try:
            key = b64decode(text, validate=True)
        except (Base64Error, ValueError):
            key = b""
        return cls(key)

    def encrypt(self, owner: UUID, text: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, text.encode(), owner.bytes)

    def decrypt(self, owner: UUID, data: bytes) -> str:
        """Raises ConfigError: another secret wrote this, or it was changed in the database."""
        try:
            return self._aead.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], owner.bytes).decode()
        except (InvalidTag, ValueError):
            raise ConfigError(
                f"DB_ENCRYPTION_SECRET does not decrypt the outgoing token of peer {owner}"
            ) from None
