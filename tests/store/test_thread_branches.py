"""A patched thread: merged, added to, branched from what it was before, with every message kept once."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.store.journal import Journal
from coordinator.store.library_schema import thread_messages
from coordinator.store.records import ThreadChange
from coordinator.store.thread_reads import spans
from manta.clock import ManualClock
from manta.errors import InvalidInput
from tests.store.library_support import answered, contents, finished, message, rows
from tests.store.support import TENANT


async def test_a_patch_merges_and_adds(journal: Journal):
    thread = (await journal.threads.create(TENANT, None, {"a": 1, "b": 2})).id
    await answered(journal, thread, "q", "a", x=1, y=1)

    patched = await journal.threads.patch(
        TENANT, thread, {"b": 3, "c": 4}, {"y": 2}, [message("user", "by the way")]
    )
    assert patched.metadata == {"a": 1, "b": 3, "c": 4}
    assert patched.values == {"x": 1, "y": 2}
    assert contents(patched) == ["q", "a", "by the way"]
    assert (await journal.threads.history(TENANT, thread))[0].run is None


async def test_metadata_alone_makes_no_state(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    await answered(journal, thread, "q", "a")
    before = await journal.threads.history(TENANT, thread)

    await journal.threads.patch(TENANT, thread, {"a": 1}, checkpoint=before[0].checkpoint)
    assert await journal.threads.history(TENANT, thread) == before


async def test_a_patch_of_an_older_state_branches(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    for turn in range(3):
        await answered(journal, thread, f"q{turn}", f"a{turn}", turn=turn)
    latest, _, first = await journal.threads.history(TENANT, thread)

    branched = await journal.threads.patch(
        TENANT, thread, values={"other": True}, messages=[message("user", "q1, but better")],
        checkpoint=first.checkpoint,
    )  # fmt: skip
    assert (branched.values, contents(branched)) == (
        {"turn": 0, "other": True},
        ["q0", "a0", "q1, but better"],
    )
    # What comes next goes on from the branch, and the old one is still there.
    await answered(journal, thread, "q", "a")
    newest, branch, old, *_ = await journal.threads.history(TENANT, thread)
    assert contents(newest) == ["q0", "a0", "q1, but better", "q", "a"]
    assert (branch.base, old) == (first.checkpoint, latest)
    assert await rows(journal, thread_messages) == 6 + 1 + 2


async def test_a_checkpoint_alone_goes_back_to_it(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    for turn in range(2):
        await answered(journal, thread, f"q{turn}", f"a{turn}", turn=turn)
    first = (await journal.threads.history(TENANT, thread))[-1]

    back = await journal.threads.patch(TENANT, thread, checkpoint=first.checkpoint)
    assert (back.values, back.messages) == (first.values, first.messages)
    assert back.checkpoint != first.checkpoint


async def test_a_message_sent_again_is_kept_once(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    await journal.threads.patch(
        TENANT, thread, messages=[message("user", "one", id="m1"), message("assistant", "two", id="m2")]
    )
    # As clients do that send the whole conversation every time.
    told = (*(await journal.threads.get(TENANT, thread)).messages, message("user", "three"))
    await finished(journal, "success", ThreadChange(thread, {}, told), thread=thread)

    record = await journal.threads.get(TENANT, thread)
    assert contents(record) == ["one", "two", "three"]
    assert await rows(journal, thread_messages) == 3


async def test_a_message_of_the_same_id_takes_the_others_place(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    told = [message("user", text, id=text) for text in ("a", "b", "c")]
    await journal.threads.patch(TENANT, thread, messages=told)
    before = (await journal.threads.history(TENANT, thread))[0]

    edited = await journal.threads.patch(
        TENANT, thread, messages=[message("user", "B!", id="b"), message("user", "d", id="d")]
    )
    assert contents(edited) == ["a", "B!", "c", "d"]
    assert (await journal.threads.history(TENANT, thread))[1] == before
    # On another branch that does not have it, it is a new one.
    start = (await journal.threads.history(TENANT, thread))[-1]
    again = await journal.threads.patch(
        TENANT, thread, messages=[message("user", "D", id="d")], checkpoint=start.checkpoint
    )
    assert contents(again) == ["a", "b", "c", "D"]


@pytest.mark.parametrize(
    "told",
    [{"role": "user"}, {"content": "x"}, {"role": 1, "content": "x"}, {"role": "user", "content": 7}, "x"],
)
async def test_a_message_of_no_use_is_refused(journal: Journal, told):
    thread = (await journal.threads.create(TENANT)).id
    with pytest.raises(InvalidInput, match="role"):
        await journal.threads.patch(TENANT, thread, messages=[told])


@pytest.mark.parametrize(
    ("tip", "branches", "way"),
    [
        (None, [], []),
        (0, [], []),
        (5, [], [(1, 5)]),
        (5, [(6, 2)], [(1, 5)]),
        (8, [(6, 2)], [(1, 2), (6, 8)]),
        (6, [(6, 2)], [(1, 2), (6, 6)]),
        (12, [(6, 2), (9, 7)], [(1, 2), (6, 7), (9, 12)]),
        (12, [(6, 2), (9, 4)], [(1, 4), (9, 12)]),
        (12, [(6, 2), (9, None)], [(9, 12)]),
    ],
)
def test_the_way_to_a_message(tip, branches, way):
    assert spans(tip, branches) == way


ids = st.sampled_from(["a", "b", "c", None])
told_messages = st.lists(st.tuples(ids, st.sampled_from(["x", "y"])), max_size=3)
changes = st.lists(st.tuples(st.integers(0, 10), told_messages), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_every_state_is_what_was_made_of_its_base(tmp_path: Path, changes):
    """A model of plain lists: a message replaces the one of its id, or is added."""

    async def check() -> None:
        journal = await Journal.open(f"sqlite:///{tmp_path}/threads.db", ManualClock())
        thread = (await journal.threads.create(TENANT)).id
        states: list[tuple[str, dict[str, str]]] = []
        for base, told in changes:
            name, model = states[base % len(states)] if states and base else (None, {})
            if states and name is None:
                name, model = states[-1]
            sent = [
                message("user", text, id=id_ or f"new{len(states)}.{n}") for n, (id_, text) in enumerate(told)
            ]
            made = await journal.threads.patch(TENANT, thread, values={}, messages=sent, checkpoint=name)
            states.append((made.checkpoint, model | {m["id"]: m["content"] for m in sent}))
        found = await journal.threads.history(TENANT, thread, 100)
        assert [(s.checkpoint, {m["id"]: m["content"] for m in s.messages}) for s in found[::-1]] == states
        assert [list(s) for _, s in states] == [[m["id"] for m in s.messages] for s in found[::-1]]
        await journal.close()

    asyncio.run(check())
