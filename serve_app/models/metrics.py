"""What Ray's Prometheus endpoint is told of answers that were kept. Counted in every process, summed up there."""

from typing import Any, Literal, Protocol, TypeAlias

Kind: TypeAlias = Literal["exact", "semantic"]


class NoteLook(Protocol):
    """An answer was looked for among those that are kept."""

    def __call__(self, model: str, kind: Kind, *, hit: bool) -> None: ...


def unnoted(model: str, kind: Kind, *, hit: bool) -> None:
    """Nobody counts."""


class CacheMetrics:
    """`NoteLook` as the counter `manta_cache_looks_total`, which is made at the first look."""

    def __init__(self) -> None:
        self._looks: Any = None

    def __call__(self, model: str, kind: Kind, *, hit: bool) -> None:
        self._looks = self._looks or _looks()
        self._looks.inc(1, {"model": model, "kind": kind, "result": "hit" if hit else "miss"})


def _looks() -> Any:
    from ray.util.metrics import Counter

    return Counter(
        "manta_cache_looks_total",
        description="Answers that were looked for among those kept, by whether there was one.",
        tag_keys=("model", "kind", "result"),
    )
