"""Steps of one token a request, recorded once for each size and then played back.

A decode step is hundreds of short kernels, and to launch one takes a processor longer than a GPU takes to run it. A
recording launches all of them at once. It repeats the same operations on the same memory, so that whatever differs
between two steps has to be in a tensor, and steps are filled up to a few sizes: powers of two of requests, and of pages
of the longest.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch

from serve_app.engine.batch import Segment
from serve_app.engine.kv_cache import KvCache

Work: TypeAlias = Callable[[], torch.Tensor]

_FILLED = 4
"""A step may copy so many times the pages that its requests have; where one is much longer than the others it would be
many times more.
"""

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    def record(self, work: Work) -> Work:
        """What repeats all that `work` does to tensors; its result is one tensor, filled anew each time.

        `work` may be run several times meanwhile. Raises RuntimeError for one that cannot be recorded.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Recording:
    table: torch.Tensor
    play: Work


class RecordedSteps:
    """Logits of steps that were recorded. One thread's at a time.

    Args:
        step: float32 logits [rows, vocabulary] of a table [rows, 2 + pages], int64: each request's token, its
            position, and the pages that hold its KV. All of it has to be read on the device.
    """

    def __init__(
        self, step: Callable[[torch.Tensor, KvCache], torch.Tensor], recorder: Recorder, device: torch.device
    ) -> None:
        self._step = step
        self._recorder: Recorder | None = recorder
        self._device = device
        self._cache: KvCache | None = None
        self._recordings: dict[tuple[int, int], _Recording | None] = {}

    def __len__(self) -> int:
        return sum(recording is not None for recording in self._recordings.values())

    def logits(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor | None:
        """float32 [requests, vocabulary] in their order; None for a step that is not played: one with several tokens of
        a request, one whose requests are of too different a length, one whose recording failed.
        """
        if not all(len(segment.tokens) == segment.wanted == 1 for segment in segments):
            return None
        pages = [segment.filled(cache.page) for segment in segments]
        size = _room(len(segments)), _room(max(map(len, pages)))
        if size[0] * size[1] > _FILLED * sum(map(len, pages)):
            return None
        recording = self._recording(size, cache)
        if recording is None:
            return None
        recording.table.copy_(_table(segments, pages, size, cache.spare))
        # The next step overwrites what was played.
        return recording.play()[: len(segments)].clone()

    def _recording(self, size: tuple[int, int], cache: KvCache) -> _Recording | None:
        if self._cache is not cache:
            # Recordings know the addresses of the other's memory.
            self._recordings.clear()
            self._cache = cache
        if size not in self._recordings:
            self._recordings[size] = self._recorded(size, cache)
        return self._recordings[size]

    def _recorded(self, size: tuple[int, int], cache: KvCache) -> _Recording | None:
        if self._recorder is None:
            return None
        table = _table((), (), size, cache.spare).to(self._device)
        try:
            return _Recording(table, self._recorder.record(lambda: self._step(table, cache)))
        except torch.OutOfMemoryError:
            _log.warning("no memory to record steps of %d requests with %d pages each", *size)
        except RuntimeError as error:
            _log.warning("steps are not recorded, and each kernel is launched by itself: %s", error)
            self._recorder = None
        return None


def _room(needed: int) -> int:
    """The next power of two, so that there are few sizes."""
    return 1 << (needed - 1).bit_length()


def _table(
    segments: Sequence[Segment], pages: Sequence[Sequence[int]], size: tuple[int, int], spare: int
) -> torch.Tensor:
    """Rows for the segments and their pages, and below them rows that read and write the spare page only."""
    table = np.full((size[0], 2 + size[1]), spare, dtype=np.int64)
    table[:, :2] = 0
    for row, segment, own in zip(table, segments, pages, strict=False):
        row[0], row[1] = segment.tokens[0], segment.position
        row[2 : 2 + len(own)] = own
    return torch.from_numpy(table)
