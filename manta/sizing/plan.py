"""How many replicas of what size carry a load, what a caller sees of it, and what it costs. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from manta.errors import InvalidInput
from manta.sizing.devices import Device
from manta.sizing.formulas import Replica, wait_s
from manta.sizing.shapes import BITS, ModelShape

SPLITS = (1, 2, 4, 8)
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for: mean tokens of a request and requests/s. `context`: the longest that must be possible.

    Raises:
        InvalidInput: no such load.
    """

    input_tokens: int = 1000
    output_tokens: int = 200
    rate: float = 1.0
    context: int = 0

    def __post_init__(self) -> None:
        if min(self.input_tokens, self.output_tokens) < 1 or self.rate <= 0 or self.context < 0:
            raise InvalidInput("a load needs at least one token in, one out, and a rate over 0")

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def longest(self) -> int:
        return max(self.context, self.tokens)


@dataclass(frozen=True, slots=True)
class Policy:
    """How it is to be run.

    `memory_share`: of a GPU's memory that is used (vLLM's gpu_memory_utilization, 0.9). `utilisation`: of a
    replica's most requests/s that is planned with; the rest takes up bursts. `max_batch`: sequences at once
    (vLLM's max_num_seqs, 256). `token_ms`: the longest mean time for a token; 0 is any. `gpus`: of one replica;
    0 chooses the fewest GPUs in all, at most `max_gpus` for each.

    Raises:
        InvalidInput: a share outside 0 to 1, an unknown type, a number of GPUs that is no power of two up to 8.
    """

    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    memory_share: float = 0.9
    utilisation: float = 0.7
    max_batch: int = 256
    token_ms: float = 0.0
    gpus: int = 0
    max_gpus: int = 8

    def __post_init__(self) -> None:
        for dtype in (self.dtype, self.kv_dtype):
            if dtype not in BITS:
                raise InvalidInput(f"unknown type {dtype!r}", fix=f"one of: {', '.join(BITS)}")
        if not 0 < self.memory_share <= 1 or not 0 < self.utilisation < 1:
            raise InvalidInput("shares of memory and of utilisation lie between 0 and 1")
        if self.max_batch < 1 or self.token_ms < 0 or self.gpus not in (0, *SPLITS) or self.max_gpus < 1:
            raise InvalidInput("a replica has 1, 2, 4 or 8 GPUs and at least one sequence at once")


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to carry the load. Times in seconds, money in the unit of the price; None without a price.

    `batch`: sequences in flight that the figures are for at full load; `busy_batch`: at the planned load.
    `most`: requests/s of one replica at full load.
    """

    replica: Replica
    load: Load
    policy: Policy
    batch: int
    busy_batch: int
    most: float
    replicas: int
    price: float | None

    @property
    def gpus(self) -> int:
        return self.replicas * self.replica.gpus

    @property
    def utilisation(self) -> float:
        """Share of the replicas' time that the load takes."""
        return self.load.rate / (self.replicas * self.most)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens/s of one replica at full load."""
        return self.most * self.load.output_tokens

    @property
    def first_token_s(self) -> float:
        """Mean: the wait, the prompt."""
        wait = wait_s(self.utilisation, 1 / self.most)
        return wait + self.replica.prefill_s(self.load.input_tokens)

    @property
    def token_s(self) -> float:
        """Mean time between two tokens of one answer at the planned load."""
        return token_s(self.replica, self.load, self.busy_batch)

    @property
    def cost_per_1000(self) -> float | None:
        """Of 1,000 requests: every GPU is paid for, busy or not."""
        return None if self.price is None else self.gpus * self.price / (self.load.rate * 3600) * 1000

    @property
    def cost_per_million_tokens(self) -> float | None:
        """Of a million tokens, read or written."""
        cost = self.cost_per_1000
        return None if cost is None else cost / self.load.tokens * 1000


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a device does not carry the model at all. `missing`: bytes it lacks; 0 where memory is not the reason."""

    device: Device
    reason: str
    missing: float = 0.0


def token_s(replica: Replica, load: Load, batch: int) -> float:
    """Seconds between two tokens when `batch` are in flight: by Little's law the request lasts batch x its share."""
    lasts = batch * replica.request_s(batch, load.input_tokens, load.output_tokens)
    return lasts / load.output_tokens


def plan(
    shape: ModelShape, device: Device, load: Load, policy: Policy, price: float | None = None
) -> Plan | Misfit:
    """The way that needs the fewest GPUs of this kind, and of those the one with the most to spare.

    Args:
        price: of one GPU for an hour.

    Raises:
        InvalidInput: the model cannot hold that many tokens.
    """
    if load.longest > shape.context:
        raise InvalidInput(
            f"{shape.name} holds {shape.context:,} tokens, {load.longest:,} are asked for",
            fix="a lower --context, or fewer tokens",
        )
    if reason := device.rejects(policy.dtype):
        return Misfit(device, reason)
    found = [
        way
        for split in _splits(shape, policy)
        if isinstance(way := _with(shape, device, load, policy, split, price), Plan)
    ]
    if found:
        return min(found, key=lambda way: (way.gpus, way.utilisation))
    return _misfit(shape, device, load, policy)


def _splits(shape: ModelShape, policy: Policy) -> Iterator[int]:
    for split in SPLITS:
        wanted = policy.gpus == split or (policy.gpus == 0 and split <= policy.max_gpus)
        if wanted and shape.splits_over(split):
            yield split


def _with(
    shape: ModelShape, device: Device, load: Load, policy: Policy, split: int, price: float | None
) -> Plan | None:
    replica = Replica(shape, device, policy.dtype, policy.kv_dtype, split)
    batch = admitted(replica, load, policy)
    if batch == 0:
        return None
    most = 1 / replica.request_s(batch, load.input_tokens, load.output_tokens)
    replicas = ceil(load.rate / (most * policy.utilisation))
    share = load.rate / replicas
    # Requests/s rise with the batch: the smallest that keeps up is where it settles.
    busy = next(
        (
            n
            for n in range(1, batch)
            if 1 / replica.request_s(n, load.input_tokens, load.output_tokens) >= share
        ),
        batch,
    )
    return Plan(replica, load, policy, batch, busy, most, replicas, price)


def admitted(replica: Replica, load: Load, policy: Policy) -> int:
    """Sequences in flight that memory and `token_ms` admit; 0 where there is no room for the longest one."""
    kv = replica.shape.kv_bytes(policy.kv_dtype)
    if replica.kv_room(policy.memory_share, 1) < load.longest * kv:
        return 0
    batch = policy.max_batch
    while batch > 1 and replica.kv_room(policy.memory_share, batch) < batch * load.tokens * kv:
        batch -= 1
    if policy.token_ms:
        while batch and token_s(replica, load, batch) * 1000 > policy.token_ms:
            batch -= 1
    return batch


def _misfit(shape: ModelShape, device: Device, load: Load, policy: Policy) -> Misfit:
    splits = list(_splits(shape, policy))
    if not splits:
        asked = f"{policy.gpus} GPUs" if policy.gpus else f"{policy.max_gpus} GPUs or fewer"
        return Misfit(
            device, f"its {shape.heads} heads and {shape.kv_heads} KV heads do not split over {asked}"
        )
    replica = Replica(shape, device, policy.dtype, policy.kv_dtype, splits[-1])
    needed = load.longest * shape.kv_bytes(policy.kv_dtype)
    missing = needed - replica.kv_room(policy.memory_share, 1)
    if missing <= 0:
        alone = token_s(replica, load, 1) * 1000
        return Misfit(device, f"a token takes {alone:.1f} ms even with one request at once")
    over = f"{splits[-1]} GPUs" if splits[-1] > 1 else "one GPU"
    return Misfit(device, f"{missing / GIB:.1f} GiB too little on {over}", missing)
