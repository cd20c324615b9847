"""A plan, line by line: each formula, the numbers put in, the result and where it comes from."""

from dataclasses import asdict, dataclass
from typing import Any

from manta.sizing.plan import GIB, Plan
from manta.sizing.shapes import BITS


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    formula: str
    numbers: str
    value: str
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(plan: Plan) -> list[Line]:
    """In the order in which one follows from the other."""
    return [*_memory(plan), *_time(plan), *_answer(plan)]


def _memory(plan: Plan) -> list[Line]:
    replica, policy, load = plan.replica, plan.policy, plan.load
    shape, device = replica.shape, replica.device
    room = replica.kv_room(policy.memory_share, plan.batch)
    bits, kv_bits = BITS[policy.dtype], BITS[policy.kv_dtype]
    return [
        Line(
            "weights",
            "parameters x bits / 8",
            f"{shape.parameters:,} x {bits:g} / 8",
            f"{shape.weight_bytes(policy.dtype) / 1e9:.2f} GB",
            shape.source,
        ),
        Line(
            "KV of a token",
            "2 x layers x KV heads x head width x bits / 8",
            f"2 x {shape.layers} x {shape.kv_heads} x {shape.head_dim} x {kv_bits:g} / 8",
            f"{shape.kv_bytes(policy.kv_dtype):,.0f} bytes",
            "Pope et al., arXiv 2211.05102; grouped heads: Ainslie et al., arXiv 2305.13245",
        ),
        Line(
            "room for KV",
            "GPUs x memory x share - weights - working memory",
            f"{replica.gpus} x {device.memory / 1e9:.0f} GB x {policy.memory_share:g}"
            f" - {shape.weight_bytes(policy.dtype) / 1e9:.2f} GB - {replica.working_bytes(plan.batch) / 1e9:.2f} GB",
            f"{room / GIB:.2f} GiB",
            device.source,
        ),
        Line(
            "sequences at once",
            "min(most, room / (tokens x KV of a token)), within the time for a token",
            f"min({policy.max_batch}, {room / 1e9:.2f} GB / ({load.tokens:,} x "
            f"{shape.kv_bytes(policy.kv_dtype):,.0f}))",
            str(plan.batch),
            "vLLM's defaults for gpu_memory_utilization and max_num_seqs",
        ),
    ]


def _time(plan: Plan) -> list[Line]:
    replica, load, batch = plan.replica, plan.load, plan.batch
    device, held = replica.device, load.input_tokens + load.output_tokens / 2
    return [
        Line(
            "decode step",
            "max(bytes read / bandwidth, FLOPs / peak) + all-reduces",
            f"max({replica.decode_bytes(batch, held) / 1e9:.2f} GB / {replica.bandwidth / 1e9:.0f} GB/s, "
            f"{replica.decode_flops(batch, held) / 1e9:.0f} GFLOP / {replica.flops(batch) / 1e9:,.0f} GFLOP/s) + "
            f"{replica.reduce_s(batch) * 1000:.2f} ms",
            f"{replica.decode_step_s(batch, held) * 1000:.2f} ms",
            "Williams et al., Roofline, CACM 52(4) 2009",
        ),
        Line(
            "efficiency",
            "reached share of the stated bandwidth, of the stated peak",
            f"{device.efficiency.bandwidth:g}, {device.efficiency.compute:g}",
            "",
            device.efficiency.source,
        ),
        Line(
            "prompt",
            "max(weights / bandwidth, (2 x weights x tokens + attention) / peak) + all-reduces",
            f"{replica.prefill_flops(load.input_tokens) / 1e9:,.0f} GFLOP / "
            f"{replica.flops(load.input_tokens) / 1e9:,.0f} GFLOP/s + "
            f"{replica.reduce_s(load.input_tokens) * 1000:.2f} ms",
            f"{replica.prefill_s(load.input_tokens) * 1000:.2f} ms",
            "Pope et al., arXiv 2211.05102",
        ),
        Line(
            "a request's share",
            "prompt + (output tokens - 1) x step / sequences",
            f"{replica.prefill_s(load.input_tokens) * 1000:.2f} ms + {load.output_tokens - 1} x "
            f"{replica.decode_step_s(batch, held) * 1000:.2f} ms / {batch}",
            f"{1000 / plan.most:.2f} ms, so {plan.most:.2f} requests/s",
            "continuous batching with prompts by themselves",
        ),
    ]


def _answer(plan: Plan) -> list[Line]:
    load, policy = plan.load, plan.policy
    lines = [
        Line(
            "replicas",
            "load / (requests/s x utilisation), rounded up",
            f"{load.rate:g} / ({plan.most:.2f} x {policy.utilisation:g})",
            f"{plan.replicas} of {plan.replica.gpus} GPU(s)",
        ),
        Line(
            "first token",
            "u x s / (2 (1 - u)) + prompt",
            f"u = {plan.utilisation:.2f}, s = {1000 / plan.most:.2f} ms",
            f"{plan.first_token_s * 1000:.0f} ms",
            "Pollaczek-Khinchine, constant service time",
        ),
        Line(
            "time between tokens",
            "sequences in flight x a request's share / output tokens",
            f"{plan.busy_batch} in flight",
            f"{plan.token_s * 1000:.1f} ms",
            "Little's law",
        ),
    ]
    if plan.price is not None and plan.cost_per_1000 is not None:
        numbers = f"{plan.gpus} x {plan.price:g} / ({load.rate:g} x 3600) x 1000"
        cost = f"{plan.cost_per_1000:.4f}"
        lines.append(
            Line("cost of 1,000 requests", "GPUs x price / (rate x 3600) x 1000", numbers, cost, "your price")
        )
    return lines
