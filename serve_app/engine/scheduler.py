"""What each step computes: a pure state machine over requests and KV pages. No torch, no time, no threads.

A request is admitted when its prompt fits and those that run have room to grow; it takes further pages as it
goes. When none is left, the one that ranks last is pre-empted: its tokens stay, its KV is kept as long as
nobody needs the room, and it goes on later where it was. The KV of finished requests is kept likewise: a later
prompt with the same beginning copies it instead of computing it.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from manta.errors import Conflict, ContextLengthExceeded, InvalidInput
from serve_app.engine.batch import Segment
from serve_app.engine.kept_kv import MIN_SHARED, KeptKv, shared_prefix
from serve_app.engine.kv_pages import KvPages

MAX_PENDING = 32
"""How many generated tokens are computed at once without drawing on the prompts' budget."""

GUESSING_ROWS = 6
"""Of a step with guesses: so many cost little more than one, as reading the weights is what takes the time."""


@dataclass(slots=True, eq=False)
class Slot:
    """A request in the scheduler: `tokens` are prompt and output so far, `computed` of them are in KV.

    `rank` orders requests, lowest first; `longest` is how many tokens it can come to.
    """

    id: str
    tokens: list[int]
    prompt_length: int
    longest: int
    rank: tuple[int, int]
    deadline: float | None
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    shared_checked: bool = False
    resumed: bool = False
    guess: tuple[int, ...] = ()

    @property
    def decoding(self) -> bool:
        return self.computed >= self.prompt_length and self.pending <= MAX_PENDING

    @property
    def pending(self) -> int:
        """How many of its tokens are still to be computed."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, slots=True)
class KvCopy:
    """Whole pages to copy, in order. `tokens` of a prompt need not be computed for it (0: just a move)."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    tokens: int = 0


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
    page: int = 128
    pages: KvPages = field(init=False)
    kept: KeptKv = field(init=False)
    running: dict[str, Slot] = field(default_factory=dict)
    preempted: int = 0
    _known: dict[str, Slot] = field(default_factory=dict)
    _queue: list[tuple[tuple[int, int], Slot]] = field(default_factory=list)
    _moves: list[KvCopy] = field(default_factory=list)
    _arrivals: "count[int]" = field(default_factory=count)

    def __post_init__(self) -> None:
        self.pages = KvPages(self.kv_places, self.page)
        self.kv_places = self.pages.total * self.pages.size
        self.kept = KeptKv(self.pages)

    @property
    def waiting(self) -> int:
        return len(self._known) - len(self.running)

    @property
    def reserved(self) -> int:
        """Places held by running requests; what is only kept for reuse does not count."""
        return sum(len(slot.pages) for slot in self.running.values()) * self.pages.size

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
        rank = (priority, next(self._arrivals))
        slot = Slot(id, tokens, len(tokens), len(tokens) + max_tokens, rank, deadline)
        self._known[id] = slot
        heapq.heappush(self._queue, (rank, slot))

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
        moves = self.kept.add(slot.tokens[: slot.computed], slot.pages, move=True)
        self._moves.extend(KvCopy((source,), (target,)) for source, target in moves)

    def plan(self) -> StepPlan:
        """Admit what fits and lay out a step: all decoding requests, then prompt chunks within the budget."""
        self._admit()
        guesses = self._guesses_each()
        copies: list[KvCopy] = []
        chosen: list[tuple[str, Segment]] = []
        # The best rank first: who grows can then pre-empt only requests that were not looked at yet.
        for slot in sorted(self.running.values(), key=lambda s: s.rank):
            if slot.decoding and slot.id in self.running and self._grow(slot):
                chosen.append(
                    (slot.id, self._segment(slot, slot.pending, self._room_for(slot.guess[:guesses], slot)))
                )
        budget = self.prefill_chunk
        for slot in sorted(self.running.values(), key=lambda s: s.rank):
            if slot.decoding or budget < 1 or self._waits(slot):
                continue
            copies.extend(self._share(slot))
            size = min(budget, slot.pending)
            chosen.append((slot.id, self._segment(slot, size)))
            budget -= size
        moves, self._moves = self._moves, []
        ids, segments = [id for id, _ in chosen], [segment for _, segment in chosen]
        return StepPlan((*moves, *copies), tuple(ids), tuple(segments))

    def advance(self, plan: StepPlan) -> None:
        """Record that a plan's tokens are in the KV memory now."""
        for id, segment in zip(plan.ids, plan.segments, strict=True):
            self.running[id].computed = segment.end - len(segment.guessed)

    def append(self, id: str, *tokens: int) -> None:
        """Add generated tokens, at most MAX_PENDING, to be computed at the next step."""
        self.running[id].tokens.extend(tokens)

    def was_right(self, id: str, count: int) -> None:
        """The last step's guess holds the next `count` tokens, which were appended: they are in the KV memory."""
        self.running[id].computed += count

    def guess(self, id: str, tokens: tuple[int, ...]) -> None:
        """What may follow, for the next step if it has room."""
        self.running[id].guess = tokens

    def _admit(self) -> None:
        while self._queue and len(self.running) < self.max_batch:
            slot = self._queue[0][1]
            if self._known.get(slot.id) is slot:
                if not self._fits(slot):
                    # What comes later must not overtake, or a long request would starve.
                    return
                self._take(slot, self.pages.needed(len(slot.tokens)))
                self.running[slot.id] = slot
            heapq.heappop(self._queue)

    def _fits(self, slot: Slot) -> bool:
        """Whether there is room for its tokens, and one more page for each that may yet need one."""
        if not self.running:
            return True
        growing = [slot, *self.running.values()]
        needed = self.pages.needed(len(slot.tokens))
        held = {slot.id: needed, **{s.id: len(s.pages) for s in self.running.values()}}
        reserve = sum(held[s.id] < self.pages.needed(s.longest) for s in growing)
        return needed + reserve <= self.pages.free + self.kept.pages_held

    def _grow(self, slot: Slot) -> bool:
        """Make room for its next token; False when it had to give way itself."""
        while len(slot.pages) * self.pages.size < len(slot.tokens):
            if not (self.pages.free or self.kept.pages_held):
                last = max(self.running.values(), key=lambda s: s.rank)
                self._preempt(last)
                if last is slot:
                    return False
            self._take(slot, 1)
        return True

    def _take(self, slot: Slot, count: int) -> None:
        while self.pages.free < count:
            self.kept.drop_page(spare=slot.tokens)
        slot.pages.extend(self.pages.take_lowest() for _ in range(count))

    def _preempt(self, slot: Slot) -> None:
        """Take a running request's room; it queues again, in its old place, with all its tokens."""
        self.preempted += 1
        del self.running[slot.id]
        self.kept.add(slot.tokens[: slot.computed], slot.pages, move=False)
        slot.pages, slot.computed = [], 0
        slot.shared_checked, slot.resumed = False, True
        heapq.heappush(self._queue, (slot.rank, slot))

    def _waits(self, slot: Slot) -> bool:
        """Whether another is just computing a beginning that this prompt can copy soon.

        Only for those that rank better, so that the best one never waits. Its computing is no slower than one's
        own would be, as both draw on the same budget.
        """
        if slot.shared_checked:
            return False
        wanted = slot.tokens[:-1]
        soon = 0
        for other in self.running.values():
            if other.rank < slot.rank and not other.decoding:
                shared = shared_prefix(other.tokens, wanted)
                if shared > other.computed:
                    soon = max(soon, shared)
        return soon >= MIN_SHARED and soon >= self._longest_known(slot)[0] + MIN_SHARED

    def _share(self, slot: Slot) -> list[KvCopy]:
        """Copy the longest known beginning of a prompt whose computing is about to start."""
        if slot.shared_checked:
            return []
        slot.shared_checked = True
        best, pages = self._longest_known(slot)
        if best < MIN_SHARED:
            return []
        slot.computed = best
        if not slot.resumed:
            slot.cached = best
        filled = self.pages.needed(best)
        return [KvCopy(pages[:filled], tuple(slot.pages[:filled]), best)]

    def _longest_known(self, slot: Slot) -> tuple[int, tuple[int, ...]]:
        """How many first tokens of a prompt are in the KV memory, and in which pages."""
        # The last token is always computed, because its logits choose the next.
        wanted = slot.tokens[:-1]
        best, pages = self.kept.longest(wanted)
        for other in self.running.values():
            if other is not slot:
                shared = shared_prefix(other.tokens[: other.computed], wanted)
                if shared > best:
                    best, pages = shared, tuple(other.pages)
        return best, pages

    def _guesses_each(self) -> int:
        """How many tokens each request may guess: none beside a prompt, whose rows fill a step."""
        if not self.running or not all(slot.decoding for slot in self.running.values()):
            return 0
        return max(0, GUESSING_ROWS - sum(slot.pending for slot in self.running.values())) // len(
            self.running
        )

    def _room_for(self, guess: tuple[int, ...], slot: Slot) -> tuple[int, ...]:
        """What of a guess has places in the pages held and within the request: nobody gives way for a guess."""
        # Of the last token that a request can come to nobody reads the KV.
        places = min(len(slot.pages) * self.pages.size, slot.longest - 1) - len(slot.tokens)
        return guess[: max(0, places)]

    @staticmethod
    def _segment(slot: Slot, size: int, guess: tuple[int, ...] = ()) -> Segment:
        begin = slot.computed
        tokens = (*slot.tokens[begin : begin + size], *guess)
        wanted = 1 + len(guess) if begin + size == len(slot.tokens) else 0
        return Segment(tokens, tuple(slot.pages), begin, wanted)
