"""The scheduler is pure: these tests play the model themselves and use no torch."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.errors import Conflict, ContextLengthExceeded, InvalidInput
from serve_app.engine.scheduler import Scheduler, StepPlan, shared_prefix


def make(max_batch: int = 4, kv: int = 256, context: int = 256, chunk: int = 32, page: int = 16) -> Scheduler:
    return Scheduler(max_batch, kv, context, chunk, page)


def prompt(length: int, first: int = 0) -> list[int]:
    return [first + index for index in range(length)]


def play(scheduler: Scheduler, plan: StepPlan, tokens: int = 1) -> list[str]:
    """Do what the engine does after a forward pass; returns the ids that went on, by so many tokens."""
    scheduler.advance(plan)
    sampled = [id for id, segment in zip(plan.ids, plan.segments, strict=True) if segment.wanted]
    for id in sampled:
        scheduler.append(id, *[9_000] * tokens)
    return sampled


def test_imports_without_torch() -> None:
    code = "import sys, serve_app.engine.scheduler, serve_app.engine.types; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prompt_is_chunked_and_only_the_last_chunk_samples() -> None:
    scheduler = make(chunk=32)
    scheduler.add("a", prompt(70), max_tokens=4)
    sizes, samples = [], []
    for _ in range(3):
        plan = scheduler.plan()
        sizes.append(len(plan.segments[0].tokens))
        samples.append(bool(play(scheduler, plan)))
    assert sizes == [32, 32, 6]
    assert samples == [False, False, True]
    assert [segment.tokens for segment in scheduler.plan().segments] == [(9_000,)]


def test_decoding_goes_on_beside_a_long_prompt() -> None:
    scheduler = make(chunk=8)
    scheduler.add("short", prompt(4), max_tokens=20)
    play(scheduler, scheduler.plan())
    scheduler.add("long", prompt(60, first=100), max_tokens=4)
    for _ in range(7):
        plan = scheduler.plan()
        assert plan.ids == ("short", "long")
        assert [len(segment.tokens) for segment in plan.segments] == [1, 8]
        play(scheduler, plan)


def test_lower_priority_number_first_then_arrival() -> None:
    scheduler = make(max_batch=1)
    for id, priority in (("b1", 1), ("a", 5), ("b2", 1), ("c", 0)):
        scheduler.add(id, prompt(4), max_tokens=2, priority=priority)
    order = []
    for _ in range(4):
        (id,) = scheduler.plan().ids
        order.append(id)
        scheduler.remove(id)
    assert order == ["c", "b1", "b2", "a"]


def test_a_request_that_does_not_fit_yet_is_not_overtaken() -> None:
    scheduler = make(kv=100, context=100, page=10)
    scheduler.add("first", prompt(50), max_tokens=10)
    scheduler.add("large", prompt(60, first=100), max_tokens=10)
    scheduler.add("small", prompt(5, first=500), max_tokens=5)
    assert scheduler.plan().ids == ("first",)
    assert scheduler.waiting == 2
    scheduler.remove("first")
    assert set(scheduler.plan().ids) == {"large"}
    assert set(scheduler.running) == {"large", "small"}


def test_what_can_never_fit_is_refused_with_numbers() -> None:
    scheduler = make(kv=64, context=256)
    with pytest.raises(
        ContextLengthExceeded, match=r"60 prompt tokens and max_tokens 5 exceed the limit of 64"
    ):
        scheduler.add("a", prompt(60), max_tokens=5)
    with pytest.raises(InvalidInput):
        scheduler.add("a", [], max_tokens=5)
    with pytest.raises(InvalidInput):
        scheduler.add("a", [1], max_tokens=0)
    assert scheduler.waiting == 0


def test_an_id_in_use_is_refused() -> None:
    scheduler = make()
    scheduler.add("a", [1], max_tokens=1)
    with pytest.raises(Conflict):
        scheduler.add("a", [2], max_tokens=1)


def test_removed_while_waiting_is_never_planned_and_the_id_is_free_again() -> None:
    scheduler = make(max_batch=1)
    scheduler.add("a", [1, 2], max_tokens=1)
    scheduler.add("b", [3, 4], max_tokens=1)
    scheduler.plan()
    scheduler.remove("b")
    scheduler.add("b", [5, 6], max_tokens=1)
    scheduler.remove("a")
    assert [segment.tokens for segment in scheduler.plan().segments] == [(5, 6)]
    assert scheduler.waiting == 0


def test_lapsed_names_waiting_and_running_and_renew_moves_it() -> None:
    scheduler = make(max_batch=1)
    scheduler.add("running", [1], max_tokens=1, deadline=10.0)
    scheduler.add("waiting", [1], max_tokens=1, deadline=10.0)
    scheduler.add("endless", [1], max_tokens=1)
    scheduler.plan()
    assert scheduler.lapsed(9.9) == []
    assert set(scheduler.lapsed(10.0)) == {"running", "waiting"}
    scheduler.renew("running", 20.0)
    scheduler.renew("unknown", 20.0)
    assert scheduler.lapsed(10.0) == ["waiting"]


def test_a_shared_beginning_is_copied_not_computed() -> None:
    scheduler = make(chunk=100)
    scheduler.add("a", prompt(40), max_tokens=4)
    play(scheduler, scheduler.plan())
    scheduler.remove("a")
    scheduler.add("b", [*prompt(30), 777, 778], max_tokens=4)
    plan = scheduler.plan()
    (copy,) = (copy for copy in plan.copies if copy.tokens)
    assert copy.tokens == 30
    assert len(copy.sources) == 2
    assert plan.segments[0].tokens == (777, 778)
    assert plan.segments[0].position == 30
    assert copy.targets == tuple(scheduler.running["b"].pages)


def test_the_same_prompt_again_computes_only_its_last_token() -> None:
    scheduler = make(chunk=100)
    scheduler.add("a", prompt(40), max_tokens=4)
    play(scheduler, scheduler.plan())
    scheduler.add("b", prompt(40), max_tokens=4)
    plan = scheduler.plan()
    assert plan.copies[0].tokens == 39
    assert [len(segment.tokens) for segment in plan.segments] == [1, 1]


def test_several_generated_tokens_are_computed_at_once_beside_prompts() -> None:
    scheduler = make(chunk=8, page=4)
    scheduler.add("a", prompt(4), max_tokens=40)
    play(scheduler, scheduler.plan())
    scheduler.append("a", 1, 2, 3)
    scheduler.add("long", prompt(20, first=100), max_tokens=4)
    plan = scheduler.plan()
    assert [(id, len(s.tokens), s.wanted) for id, s in zip(plan.ids, plan.segments, strict=True)] == [
        ("a", 4, True),
        ("long", 8, False),
    ]
    assert len(scheduler.running["a"].pages) == 2


def sizes_of_steps(scheduler: Scheduler, steps: int) -> list[dict[str, int]]:
    sizes = []
    for _ in range(steps):
        plan = scheduler.plan()
        sizes.append({id: len(segment.tokens) for id, segment in zip(plan.ids, plan.segments, strict=True)})
        play(scheduler, plan)
    return sizes


def test_equal_prompts_at_once_are_computed_once() -> None:
    scheduler = make(chunk=40, kv=512)
    for id in "abc":
        scheduler.add(id, prompt(60), max_tokens=4)
    scheduler.add("other", prompt(20, first=500), max_tokens=4)
    # Whoever shares nothing does not wait; "b" and "c" copy as soon as "a" is through.
    steps = sizes_of_steps(scheduler, 3)
    assert steps == [{"a": 40}, {"a": 20, "other": 20}, {"a": 1, "other": 1, "b": 1, "c": 1}]
    assert [scheduler.running[id].cached for id in "abc"] == [0, 59, 59]


def test_only_a_beginning_worth_it_is_waited_for() -> None:
    scheduler = make(chunk=60, kv=512)
    scheduler.add("a", prompt(40), max_tokens=4)
    scheduler.add("much", [*prompt(25), 777, 778], max_tokens=4)
    scheduler.add("little", [*prompt(10), 777, 778], max_tokens=4)
    assert sizes_of_steps(scheduler, 2) == [{"a": 40, "little": 12}, {"a": 1, "little": 1, "much": 2}]


def test_nobody_waits_for_one_that_is_gone() -> None:
    scheduler = make(chunk=60, kv=512)
    scheduler.add("a", prompt(40), max_tokens=4)
    scheduler.add("b", prompt(40), max_tokens=4)
    assert scheduler.plan().ids == ("a",)
    scheduler.remove("a")
    assert sizes_of_steps(scheduler, 1) == [{"b": 40}]


def test_kept_kv_makes_room_when_it_is_needed() -> None:
    scheduler = make(kv=112, context=112, chunk=100)
    for index in range(5):
        scheduler.add(str(index), prompt(70, first=100 * index), max_tokens=30)
        plan = scheduler.plan()
        assert plan.ids == (str(index),)
        play(scheduler, plan)
        scheduler.remove(str(index))
    assert scheduler.pages.used == scheduler.kept.pages_held <= scheduler.pages.total
    assert scheduler.reserved == 0


def test_growth_preempts_who_ranks_last_and_it_goes_on_where_it_was() -> None:
    scheduler = make(kv=64, context=64, chunk=100)
    scheduler.add("late", prompt(16, first=100), max_tokens=40, priority=1)
    play(scheduler, scheduler.plan())
    scheduler.add("early", prompt(14), max_tokens=40)
    made = {"late": 1, "early": 0}
    for _ in range(200):
        for id in play(scheduler, scheduler.plan()):
            made[id] += 1
            if made[id] == 40:
                scheduler.remove(id)
        if scheduler.preempted and made["early"] < 40:
            assert set(scheduler.running) == {"early"}
            assert scheduler.waiting == 1
    assert scheduler.preempted >= 1
    assert made == {"late": 40, "early": 40}


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_shared_prefix(left: list[int], right: list[int]) -> None:
    size = shared_prefix(tuple(left), right)
    assert left[:size] == right[:size]
    assert size == min(len(left), len(right)) or left[size] != right[size]


REQUEST = st.tuples(
    st.integers(1, 32),  # prompt length
    st.integers(1, 12) | st.just(40),  # max_tokens
    st.integers(0, 3),  # priority
    st.integers(0, 12),  # step of arrival
    st.one_of(st.none(), st.integers(0, 30)),  # step of cancellation
    st.integers(0, 2),  # which family of prompts, so that beginnings are shared
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(REQUEST, max_size=14),
    st.integers(1, 4),
    st.integers(72, 160),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from((1, 4, 24)),
    st.sampled_from((1, 1, 3, 12)),
)
def test_no_request_is_lost_and_kv_is_never_overcommitted(
    requests, max_batch, kv, chunk, finish_early, page, at_once
) -> None:
    """Every request ends, each page belongs to one owner, and each planned token finds its past in KV."""
    scheduler = make(max_batch, kv, context=kv, chunk=chunk, page=page)
    memory: dict[int, tuple[int, ...]] = {}  # place -> the tokens up to and with the one kept there
    made = {str(index): 0 for index in range(len(requests))}
    ended: set[str] = set()
    for now in range(2_000):
        for index, (length, budget, priority, arrival, _, family) in enumerate(requests):
            if arrival == now:
                scheduler.add(str(index), prompt(length, first=1_000 * family), budget, priority)
        for index, request in enumerate(requests):
            if request[4] == now and request[3] <= now and str(index) not in ended:
                scheduler.remove(str(index))
                ended.add(str(index))
        plan = scheduler.plan()
        _check_ownership(scheduler, max_batch)
        _fill(memory, plan, scheduler)
        for id in play(scheduler, plan, at_once):
            made[id] += at_once
            if made[id] >= requests[int(id)][1] or (finish_early and made[id] >= 2):
                scheduler.remove(id)
                ended.add(id)
        if len(ended) == len(requests):
            break
        arrived = any(request[3] <= now and str(i) not in ended for i, request in enumerate(requests))
        assert plan.segments or not arrived, "requests wait but nothing is planned"
    assert len(ended) == len(requests)
    assert not scheduler.running
    assert scheduler.waiting == 0
    assert scheduler.reserved == 0


def _check_ownership(scheduler: Scheduler, max_batch: int) -> None:
    assert len(scheduler.running) <= max_batch
    owned = [page for slot in scheduler.running.values() for page in slot.pages]
    kept = [page for entry in scheduler.kept.entries for page in entry.pages]
    assert len(kept) == scheduler.kept.pages_held
    owned += kept
    assert len(owned) == len(set(owned)) == scheduler.pages.used
    assert all(0 <= page < scheduler.pages.total for page in owned)


def _fill(memory: dict[int, tuple[int, ...]], plan: StepPlan, scheduler: Scheduler) -> None:
    size = scheduler.pages.size
    for copy in plan.copies:
        for source, target in zip(copy.sources, copy.targets, strict=True):
            for offset in range(size):
                memory[target * size + offset] = memory.get(source * size + offset, ())
    for id, segment in zip(plan.ids, plan.segments, strict=True):
        assert segment.tokens
        slot = scheduler.running[id]
        assert segment.pages == tuple(slot.pages)
        for position in range(segment.position, segment.end):
            memory[segment.pages[position // size] * size + position % size] = tuple(
                slot.tokens[: position + 1]
            )
        for position in range(segment.end):
            place = segment.pages[position // size] * size + position % size
            assert memory[place] == tuple(slot.tokens[: position + 1])
