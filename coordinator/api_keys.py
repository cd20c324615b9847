"""API keys as text: `mk_ID_SECRET`, how they are made, read and compared. Pure, but for the making."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import get_args

from coordinator.store.key_records import KeyOnFile, Scope

SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: tuple[Scope, ...] = ("runs:read", "runs:write", "chat")
_TEXT = re.compile(r"mk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NOBODYS = "0" * 64
"""No secret has this hash: what is compared where there is nothing to compare with, so that it takes as long."""


@dataclass(frozen=True, slots=True)
class KeyText:
    id: str
    secret: str

    def __str__(self) -> str:
        return f"mk_{self.id}_{self.secret}"


def new_key_text(key: str | None = None) -> KeyText:
    """A new key, or for the id of one that is there a new secret, of 256 bits."""
    return KeyText(key or secrets.token_hex(8), secrets.token_urlsafe(32))


def read_key_text(text: str) -> KeyText | None:
    """None for what is no key, whatever it is."""
    found = _TEXT.fullmatch(text)
    return KeyText(found[1], found[2]) if found else None


def digest(secret: str) -> str:
    """What is kept of a secret. It is random and long: a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def holds(on_file: KeyOnFile | None, secret: str, now: float) -> bool:
    """Whether this is the key's secret (or the one before, as long as that holds) and the key is valid."""
    current = old = _NOBODYS
    if on_file is not None:
        current = on_file.secret_hash
        until = on_file.record.rotated_until
        if on_file.old_hash is not None and until is not None and now < until:
            old = on_file.old_hash
    shown = digest(secret).encode()
    # Both are compared in any case, and as bytes: other text than ASCII is an error for `compare_digest`.
    same = hmac.compare_digest(current.encode(), shown) | hmac.compare_digest(old.encode(), shown)
    return same and on_file is not None and on_file.record.state(now) == "valid"
