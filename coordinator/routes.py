"""Which version of a model answers. Pure, and alike in every process."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from manta.ids import RunId, Tenant

if TYPE_CHECKING:
    # The store, whose package comes with its records, chooses by these rules.
    from coordinator.store.model_records import Route, Sticky


def share(model: str, key: str) -> float:
    """Where a key stands among all keys of a model, in [0, 1): evenly spread, and always the same."""
    digest = hashlib.sha256(f"{model}:{key}".encode(errors="surrogatepass")).digest()
    # As many bits as a float holds: one more could round up to 1.
    return (int.from_bytes(digest[:8]) >> 11) / (1 << 53)


def choose(route: "Route", key: str) -> int:
    """The version for whatever has this key.

    The newest version has the lowest shares: a canary that grows keeps those that it has.
    """
    versions = sorted(route.weights, reverse=True)
    total = sum(route.weights.values())
    place = share(route.model, key)
    taken = 0
    for version in versions[:-1]:
        taken += route.weights[version]
        if place < taken / total:
            return version
    return versions[-1]


def by_share(weights: Mapping[int, int]) -> list[int]:
    """The versions of a route, the one with the largest share first, of equal ones the newest."""
    return sorted(weights, key=lambda version: (weights[version], version), reverse=True)


def sticky_key(sticky: "Sticky", run: RunId | None, tenant: Tenant, user: str) -> str | None:
    """What calls have in common that are to meet the same version; None: nothing."""
    if sticky == "none":
        return None
    by_user = f"{tenant}/{user}" if user else None
    return by_user or run if sticky == "user" else run or by_user
