"""Recording on a GPU, as https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs says."""

from typing import Any

import torch

from serve_app.engine.recorded import Work

WARM_UPS = 3
"""Libraries choose their kernels and make room in their first calls, which cannot be recorded."""


class CudaGraphs:
    """Records on one device. All recordings share their memory, as one is played at a time and its result is taken
    before the next.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def record(self, work: Work) -> Work:
        with torch.cuda.device(self._device):
            self._warm_up(work)
            graph = torch.cuda.CUDAGraph()
            # Another thread may do what must not happen during a recording; only here it would spoil one.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()
        self._pool = graph.pool()

        def play() -> torch.Tensor:
            graph.replay()
            return result

        return play

    def _warm_up(self, work: Work) -> None:
        # torch leaves it without types.
        stream: Any = torch.cuda.Stream
        beside = stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(beside)
