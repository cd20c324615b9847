"""Steps of one token a request, recorded once for each size and then played back.

A decode step is hundreds of short kernels, and to launch one takes a processor longer than a GPU takes to run it. A
recording launches all of them at once. It repeats the same operations on the same memory, so that whatever differs
between two steps has to be in a tensor, and steps are filled up to a few sizes.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from serve_app.engine.batch import Segment
from serve_app.engine.kv_cache import KvCache

Work: TypeAlias = Callable[[], torch.Tensor]

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
        self._recordings: dict[tuple[int, int], _Recording] = {}

    def __len__(self) -> int:
        return len(self._recordings)

    def logits(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor | None:
        """float32 [requests, vocabulary] in their order; None for a step that is not recorded: one with several
        tokens of a request, or any once recording has failed.
        """
        if not all(len(segment.tokens) == segment.wanted == 1 for segment in segments):
            return None
        longest = max(_pages(segment, cache) for segment in segments)
        recording = self._recording(_room(len(segments)), _room(longest), cache)
        if recording is None:
            return None
        recording.table.copy_(_table(segments, cache, recording.table.shape))
        # The next step overwrites what was played.
        return recording.play()[: len(segments)].clone()

    def _recording(self, rows: int, pages: int, cache: KvCache) -> _Recording | None:
        if self._cache is not cache:
            # Recordings know the addresses of the other's memory.
            self._recordings.clear()
            self._cache = cache
        if (rows, pages) not in self._recordings and self._recorder is not None:
            table = _table((), cache, (rows, 2 + pages)).to(self._device)
            try:
                play = self._recorder.record(lambda: self._step(table, cache))
            except RuntimeError as error:
                _log.warning("steps are not recorded, and each kernel is launched by itself: %s", error)
                self._recorder = None
            else:
                self._recordings[rows, pages] = _Recording(table, play)
        return self._recordings.get((rows, pages))


def _room(needed: int) -> int:
    """The next power of two: few sizes, none of which is filled less than by half."""
    return 1 << (needed - 1).bit_length()


def _pages(segment: Segment, cache: KvCache) -> int:
    return -(-segment.end // cache.page)


def _table(segments: Sequence[Segment], cache: KvCache, shape: tuple[int, int] | torch.Size) -> torch.Tensor:
    """Rows for the segments, and below them rows that read and write the spare page only."""
    rows, width = shape
    table = [[0, 0, *[cache.spare] * (width - 2)] for _ in range(rows)]
    for row, segment in zip(table, segments, strict=False):
        own = segment.pages[: _pages(segment, cache)]
        row[0], row[1] = segment.tokens[0], segment.position
        row[2 : 2 + len(own)] = own
    return torch.tensor(table)
