"""What each step computes: a pure state machine over requests and KV places. No torch, no time, no threads.

A request reserves the places it can at most need before it starts, so a running one never has to be thrown
out. The places of finished requests are kept as long as nobody needs them: a later prompt with the same
beginning copies it instead of computing it.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from manta.errors import Conflict, ContextLengthExceeded, InvalidInput
from serve_app.engine.batch import Segment
from serve_app.engine.kv_space import KvSpace

# Copying fewer tokens than this saves nothing worth the search.
_MIN_SHARED = 16
# Bounds the search for a shared beginning.
_MAX_KEPT = 64


@dataclass(slots=True, eq=False)
class Slot:
    """A request in the scheduler: `tokens` are prompt and output so far, `computed` of them are in KV."""

    id: str
    tokens: list[int]
    prompt_length: int
    places: int
    priority: int
    deadline: float | None
    start: int = -1
    computed: int = 0
    cached: int = 0
    shared_checked: bool = False

    @property
    def prefilling(self) -> bool:
        return self.computed < self.prompt_length


@dataclass(frozen=True, slots=True)
class Kept:
    """KV of a finished request that may be reused or dropped: `tokens`, one place each, from `start` on."""

    tokens: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class KvCopy:
    source: int
    target: int
    count: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: the copies, then all segments in one pass. `ids` names the request of each segment."""

    copies: tuple[KvCopy, ...]
    ids: tuple[str, ...]
    segments: tuple[Segment, ...]


@dataclass(slots=True)
class Scheduler:
    """Admits by (priority, arrival), at most `max_batch` at once and never beyond `kv_places`."""

    max_batch: int
    kv_places: int
    context: int
    prefill_chunk: int
    space: KvSpace = field(init=False)
    running: dict[str, Slot] = field(default_factory=dict)
    _known: dict[str, Slot] = field(default_factory=dict)
    _queue: list[tuple[int, int, Slot]] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    _arrivals: "count[int]" = field(default_factory=count)

    def __post_init__(self) -> None:
        self.space = KvSpace(self.kv_places)

    @property
    def waiting(self) -> int:
        return len(self._known) - len(self.running)

    @property
    def reserved(self) -> int:
        """Places held by running requests; what is only kept for reuse does not count."""
        return sum(slot.places for slot in self.running.values())

    def check(self, prompt_length: int, max_tokens: int) -> None:
        """Raises ContextLengthExceeded for a request that could never run, InvalidInput for an empty one."""
        if prompt_length < 1 or max_tokens < 1:
            raise InvalidInput("a generation needs at least one prompt token and max_tokens of at least 1")
        limit = min(self.context, self.kv_places)
        if prompt_length + max_tokens > limit:
            raise ContextLengthExceeded(
                f"{prompt_length} prompt tokens and max_tokens {max_tokens} exceed the limit of {limit}"
                f" tokens (context window {self.context}, KV memory {self.kv_places})",
                fix="shorten the prompt or lower max_tokens",
            )

    def add(
        self,
        id: str,
        prompt: Iterable[int],
        max_tokens: int,
        priority: int = 0,
        deadline: float | None = None,
    ) -> None:
        """Queue a request. Raises like `check`, and Conflict when the id is in use."""
        tokens = list(prompt)
        self.check(len(tokens), max_tokens)
        if id in self._known:
            raise Conflict(f"request {id!r} is already in the engine", fix="use a new id")
        slot = Slot(id, tokens, len(tokens), len(tokens) + max_tokens, priority, deadline)
        self._known[id] = slot
        heapq.heappush(self._queue, (priority, next(self._arrivals), slot))

    def renew(self, id: str, deadline: float | None) -> None:
        """Move a deadline; unknown ids are ignored, since the request may just have ended."""
        if id in self._known:
            self._known[id].deadline = deadline

    def lapsed(self, now: float) -> list[str]:
        """Ids whose deadline has passed."""
        return [s.id for s in self._known.values() if s.deadline is not None and s.deadline <= now]

    def remove(self, id: str) -> None:
        """Forget a request, waiting or running; its KV is kept while nobody needs the room."""
        slot = self._known.pop(id, None)
        if slot is None or self.running.pop(id, None) is None:
            return
        filled = slot.computed if slot.computed >= _MIN_SHARED else 0
        self.space.give_back(slot.start + filled, slot.places - filled)
        if filled:
            self.kept.append(Kept(tuple(slot.tokens[:filled]), slot.start))
        if len(self.kept) > _MAX_KEPT:
            self._drop(self.kept[0])

    def plan(self) -> StepPlan:
        """Admit what fits and lay out a step: all decoding requests, then prompt chunks within the budget."""
        self._admit()
        copies: list[KvCopy] = []
        chosen: list[tuple[str, Segment]] = []
        budget = self.prefill_chunk
        for slot in self.running.values():
            if not slot.prefilling:
                chosen.append((slot.id, self._segment(slot, 1)))
        for slot in sorted(self.running.values(), key=lambda s: s.priority):
            if not slot.prefilling or budget < 1:
                continue
            copies.extend(self._share(slot))
            size = min(budget, len(slot.tokens) - slot.computed)
            chosen.append((slot.id, self._segment(slot, size)))
            budget -= size
        return StepPlan(tuple(copies), tuple(id for id, _ in chosen), tuple(segment for _, segment in chosen))

    def advance(self, plan: StepPlan) -> None:
        """Record that a plan's tokens are in the KV memory now."""
        for id, segment in zip(plan.ids, plan.segments, strict=True):
            self.running[id].computed = segment.end

    def append(self, id: str, token: int) -> None:
        """Add a generated token, to be computed at the next step."""
        self.running[id].tokens.append(token)

    def _admit(self) -> None:
        while self._queue and len(self.running) < self.max_batch:
            slot = self._queue[0][2]
            if self._known.get(slot.id) is slot:
                start = self._take(slot)
                if start is None:
                    # What comes later must not overtake, or a long request would starve.
                    return
                slot.start = start
                self.running[slot.id] = slot
            heapq.heappop(self._queue)

    def _take(self, slot: Slot) -> int | None:
        """A stretch for the request, dropping kept KV (the oldest first, the most useful last) as needed."""
        if slot.places > self.kv_places - self.reserved:
            return None
        useful = max(self.kept, key=lambda kept: shared_prefix(kept.tokens, slot.tokens), default=None)
        while (start := self.space.take(slot.places)) is None:
            if not self.kept:
                return None
            self._drop(next((kept for kept in self.kept if kept is not useful), self.kept[0]))
        return start

    def _drop(self, kept: Kept) -> None:
        self.kept.remove(kept)
        self.space.give_back(kept.start, len(kept.tokens))

    def _share(self, slot: Slot) -> list[KvCopy]:
        """Copy the longest known beginning of a prompt whose computing is about to start."""
        if slot.shared_checked:
            return []
        slot.shared_checked = True
        best, source = 0, None
        donors = [(k.tokens, k.start, k) for k in self.kept]
        computed = [(s.tokens[: s.computed], s.start, None) for s in self.running.values() if s is not slot]
        for tokens, start, kept in [*donors, *computed]:
            # The last prompt token is always computed, because its logits choose the next.
            shared = min(shared_prefix(tokens, slot.tokens), slot.prompt_length - 1)
            if shared > best:
                best, source = shared, (start, kept)
        if best < _MIN_SHARED or source is None:
            return []
        if source[1] is not None:
            self.kept.remove(source[1])
            self.kept.append(source[1])
        slot.computed = slot.cached = best
        return [KvCopy(source[0], slot.start, best)]

    @staticmethod
    def _segment(slot: Slot, size: int) -> Segment:
        begin = slot.computed
        tokens = tuple(slot.tokens[begin : begin + size])
        return Segment(tokens, slot.start, begin, wants_logits=begin + size == len(slot.tokens))


def shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are equal."""
    low, high = 0, min(len(left), len(right))
    own = tuple(left[:high])
    other = tuple(right[:high])
    while low < high:
        middle = (low + high + 1) // 2
        if own[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
