"""What a text means as a vector, or nothing: an embedder that is late or broken stops no call."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from manta.protocols import Embedder
from manta.telemetry import get_logger

EMBED_S = 2.0
"""What the meaning of one question is waited for."""

logger = get_logger("models")


async def meanings(
    embedder: Embedder, texts: Sequence[str], what_for: str, seconds: float
) -> NDArray[np.float32] | None:
    """A row of length 1 for each text; None if that was not to be had in time. `what_for` is for the log."""
    try:
        async with asyncio.timeout(seconds):
            vectors = np.asarray(await embedder.embed(texts), np.float32)
        if vectors.shape[:1] != (len(texts),) or vectors.ndim != 2:
            raise ValueError(f"{len(texts)} texts have vectors of shape {vectors.shape}")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise ValueError("a vector has no length")
    except Exception as error:
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        logger.warning("no embeddings for %s: %s", what_for, cause)
        return None
    return np.asarray(vectors / lengths, np.float32)
