"""Time of a step and of a prompt by the roofline, and how many requests a replica ends in a second.

Sources: the roofline is Williams, Waterman and Patterson, "Roofline" (CACM 52(4), 2009); counting two FLOPs for
each weight and token, and the split into prefill and decode, are Pope et al., "Efficiently Scaling Transformer
Inference" (arXiv 2211.05102); requests in flight are Little's law; the wait is Pollaczek and Khinchine's for one
server with a constant service time.
"""

from dataclasses import dataclass

from manta.sizing.devices import Device
from manta.sizing.shapes import ModelShape

REDUCE_LATENCY_S = 1e-5
"""Of one all-reduce (calculon-ai/calculon, systems/a100_80g.json: 10 microseconds)."""
STEP_TOKENS = 2048
"""Prompt tokens of one step, for which working memory is set aside."""
ACTIVATION_BYTES = 2


@dataclass(frozen=True, slots=True)
class Replica:
    """A model on `gpus` GPUs of one kind by tensor parallelism."""

    shape: ModelShape
    device: Device
    dtype: str
    kv_dtype: str
    gpus: int = 1

    @property
    def bandwidth(self) -> float:
        """Bytes/s reached by all its GPUs together."""
        return self.gpus * self.device.bandwidth * self.device.efficiency.bandwidth

    def flops(self, rows: float) -> float:
        """FLOP/s reached by all its GPUs together in products of so many rows."""
        return self.gpus * self.device.peak(self.dtype, rows) * self.device.efficiency.compute

    def working_bytes(self, batch: int) -> float:
        """Set aside on all GPUs for what a step computes: the widest layer's values, and the logits in fp32."""
        shape = self.shape
        values = STEP_TOKENS * (4 * shape.hidden * self.gpus + 2 * shape.feed_forward) * ACTIVATION_BYTES
        return values + batch * shape.vocabulary * 4

    def kv_room(self, memory_share: float, batch: int) -> float:
        """Bytes left for KV on all GPUs; negative where not even the weights fit."""
        usable = self.gpus * self.device.memory * memory_share
        return usable - self.shape.weight_bytes(self.dtype) - self.working_bytes(batch)

    def attention_flops(self, pairs: float) -> float:
        """For so many pairs of a query and a key: the score and the mixing, two FLOPs for each weight."""
        return 4 * self.shape.layers * self.shape.heads * self.shape.head_dim * pairs

    def reduce_s(self, rows: float) -> float:
        """Two ring all-reduces in each layer: 2 (g - 1) / g of the rows cross each link."""
        if self.gpus == 1:
            return 0.0
        crossing = 2 * (self.gpus - 1) / self.gpus * rows * self.shape.hidden * ACTIVATION_BYTES
        once = crossing / (self.device.link * self.device.efficiency.link) + REDUCE_LATENCY_S
        return 2 * self.shape.layers * once

    def decode_bytes(self, batch: int, context: float) -> float:
        return self.shape.read_bytes(self.dtype) + batch * context * self.shape.kv_bytes(self.kv_dtype)

    def decode_flops(self, batch: int, context: float) -> float:
        shape = self.shape
        return 2 * (shape.products + shape.head) * batch + self.attention_flops(batch * context)

    def decode_step_s(self, batch: int, context: float) -> float:
        """One token for each of `batch` sequences that hold `context` tokens."""
        memory = self.decode_bytes(batch, context) / self.bandwidth
        compute = self.decode_flops(batch, context) / self.flops(batch)
        return max(memory, compute) + self.reduce_s(batch)

    def prefill_flops(self, tokens: int) -> float:
        """Of one prompt. A token sees itself and those before it; only the last one meets the head."""
        shape = self.shape
        return 2 * shape.products * tokens + 2 * shape.head + self.attention_flops(tokens * tokens / 2)

    def prefill_s(self, tokens: int) -> float:
        """One prompt, computed by itself."""
        compute = self.prefill_flops(tokens) / self.flops(tokens)
        memory = self.shape.read_bytes(self.dtype) / self.bandwidth
        return max(memory, compute) + self.reduce_s(tokens)

    def request_s(self, batch: int, input_tokens: int, output_tokens: int) -> float:
        """Time of the replica that one request takes, when `batch` are in flight: 1 / the most requests/s.

        Its prompt by itself, and its share of the steps it takes part in. The first token comes with the prompt.
        """
        step = self.decode_step_s(batch, input_tokens + output_tokens / 2)
        return self.prefill_s(input_tokens) + (output_tokens - 1) * step / batch


def wait_s(utilisation: float, service_s: float) -> float:
    """Mean wait in front of a server that is busy this share of the time and serves in a constant time."""
    return utilisation * service_s / (2 * (1 - utilisation))
