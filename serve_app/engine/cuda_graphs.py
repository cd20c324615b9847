"""Recording on a GPU, as https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs says."""

import threading
from typing import Any

import torch

from serve_app.engine.recorded import Work

WARM_UPS = 3
"""Libraries choose their kernels and make room in their first calls, which cannot be recorded."""


_ALONE = threading.Lock()
"""Two recordings at a time in one process, of two engines say, would spoil each other's memory."""


class CudaGraphs:
    """Records on one device. All recordings take what they need on their way from one pool, as one is played at a time
    and its result is taken before the next; results have places of their own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # torch leaves both without types. The stream is one for all: each has a workspace of matrix products.
        self._stream: Any = None
        self._pool: Any = None

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with _ALONE, torch.cuda.device(self._device):
            stream, pool = self._ours()
            stream.wait_stream(torch.cuda.current_stream())
            # Here as well, since torch does not leave its stream when a recording fails.
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    work()
                # Another thread may do what must not happen during a recording; only here it would spoil one.
                with torch.cuda.graph(graph, pool.id, stream, capture_error_mode="thread_local"):
                    result = work()
            torch.cuda.current_stream().wait_stream(stream)

        def play() -> torch.Tensor:
            graph.replay()
            return result

        return play

    def _ours(self) -> tuple[Any, Any]:
        """Not made before the first recording: nothing of CUDA is begun without need."""
        if self._stream is None:
            new_stream: Any = torch.cuda.Stream
            self._stream, self._pool = new_stream(), torch.cuda.MemPool()
        return self._stream, self._pool
