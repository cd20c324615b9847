"""Threads remember what was said, once; they branch, copy, search, and follow the runs that work on them."""

import asyncio
import uuid

import pytest

from coordinator.store.journal import Journal
from coordinator.store.library_schema import thread_labels, thread_messages, thread_states
from coordinator.store.records import RunChange, ThreadChange
from manta.clock import ManualClock
from manta.errors import Conflict, InvalidInput, NotFound
from manta.ids import ThreadId
from tests.store.library_support import answered, contents, message, rows
from tests.store.support import OTHER, TENANT, a_run, claimed


async def test_a_new_thread_reads_back(journal: Journal, clock: ManualClock):
    made = await journal.threads.create(TENANT, None, {"user": "ann"})

    assert made == await journal.threads.get(TENANT, made.id)
    assert str(uuid.UUID(made.id)) == made.id
    assert (made.status, made.metadata, made.values, made.messages) == ("idle", {"user": "ann"}, {}, ())
    assert (made.checkpoint, made.created_at, made.updated_at) == (None, clock.now(), clock.now())
    assert await journal.threads.state(TENANT, made.id) is None
    assert await journal.threads.history(TENANT, made.id) == []


async def test_an_id_of_ones_own_is_taken_once(journal: Journal):
    wanted = ThreadId(str(uuid.uuid4()))
    first = await journal.threads.create(TENANT, wanted, {"n": 1})

    with pytest.raises(Conflict) as refused:
        await journal.threads.create(TENANT, wanted)
    assert refused.value.code == "thread_exists"
    again = await journal.threads.create(TENANT, ThreadId(wanted.upper()), {"n": 2}, "do_nothing")
    assert again == first
    theirs = await journal.threads.create(OTHER, wanted)
    assert (theirs.id, theirs.tenant) == (wanted, OTHER)


async def test_two_processes_create_one_thread(url: str, journal: Journal, clock: ManualClock):
    second = await Journal.open(url, clock)
    ids = [ThreadId(str(uuid.uuid4())) for _ in range(10)]
    try:
        made = await asyncio.gather(
            *(j.threads.create(TENANT, i, {}, "do_nothing") for i in ids for j in (journal, second))
        )
    finally:
        await second.close()
    assert {thread.id for thread in made} == set(ids)
    assert len(await journal.threads.search(TENANT, limit=100)) == 10


@pytest.mark.parametrize("wanted", ["", "no uuid", "..", 7, "a" * 300])
async def test_an_id_that_is_no_uuid_is_refused(journal: Journal, wanted):
    with pytest.raises(InvalidInput):
        await journal.threads.create(TENANT, wanted)


async def test_a_run_that_ends_well_leaves_its_words_and_values(journal: Journal, clock: ManualClock):
    thread = (await journal.threads.create(TENANT)).id
    await clock.advance(5)
    first = await answered(journal, thread, "Who are you?", "A ray.", mood="calm")
    second = await answered(journal, thread, "And I?", "A diver.", depth=3)

    record = await journal.threads.get(TENANT, thread)
    assert contents(record) == ["Who are you?", "A ray.", "And I?", "A diver."]
    assert [told["role"] for told in record.messages] == ["user", "assistant"] * 2
    assert len({told["id"] for told in record.messages}) == 4
    # The values are the last run's, not a mixture.
    assert (record.values, record.updated_at) == ({"depth": 3}, clock.now())

    newest, oldest = await journal.threads.history(TENANT, thread)
    assert newest == await journal.threads.state(TENANT, thread)
    assert (newest.run, oldest.run) == (second.id, first.id)
    assert (newest.base, oldest.base) == (oldest.checkpoint, None)
    assert (oldest.values, contents(oldest)) == ({"mood": "calm"}, ["Who are you?", "A ray."])
    assert newest.checkpoint == record.checkpoint
    assert uuid.UUID(newest.checkpoint) != uuid.UUID(oldest.checkpoint)


async def test_a_thread_grows_with_what_is_said(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    for turn in range(20):
        await answered(journal, thread, f"question {turn}", f"answer {turn}", turn=turn)

    assert await rows(journal, thread_messages) == 40
    assert await rows(journal, thread_states) == 20
    assert await rows(journal, thread_labels) == 1
    page = await journal.threads.history(TENANT, thread, 5)
    assert [state.values["turn"] for state in page] == [19, 18, 17, 16, 15]
    assert [len(state.messages) for state in page] == [40, 38, 36, 34, 32]
    older = await journal.threads.history(TENANT, thread, 3, before=page[-1].checkpoint)
    assert [state.values["turn"] for state in older] == [14, 13, 12]


async def test_the_commit_that_ends_a_run_is_all_or_nothing(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    run = await claimed(journal, thread=thread)
    told = ThreadChange(thread, {"a": object()}, ())

    with pytest.raises(InvalidInput):
        await journal.commit(run.id, run.epoch, [told, RunChange("success")])
    assert (await journal.get_run(TENANT, run.id)).status == "running"
    assert await journal.threads.history(TENANT, thread) == []


async def test_text_of_every_kind_is_kept(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    odd = "\0 \ud800 \u2028 '\" 🐟" * 3
    blocks = [{"type": "text", "text": odd}]
    record = await journal.threads.patch(
        TENANT, thread, {"m": odd}, {odd: odd}, [message("user", blocks, id="x" * 10_000)]
    )
    assert (record.metadata, record.values, contents(record)) == ({"m": odd}, {odd: odd}, [blocks])
    assert [t.id for t in await journal.threads.search(TENANT, {"m": odd}, {odd: odd})] == [thread]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], "idle"),
        (["success"], "idle"),
        (["error"], "error"),
        (["timeout"], "error"),
        (["interrupted"], "interrupted"),
        (["error", "success"], "idle"),
        (["success", "running"], "busy"),
        (["waiting"], "interrupted"),
        (["waiting", "pending"], "interrupted"),
        (["success", "pending"], "busy"),
        (["running", "pending"], "busy"),
    ],
)
async def test_the_status_is_that_of_its_runs(journal: Journal, statuses, expected: str):
    thread = (await journal.threads.create(TENANT)).id
    for status in statuses:
        if status == "pending":
            await journal.create_run(a_run(thread=thread))
            continue
        run = await claimed(journal, thread=thread)
        if status != "running":
            await journal.commit(run.id, run.epoch, [RunChange(status)])
    await claimed(journal)

    assert (await journal.threads.get(TENANT, thread)).status == expected
    for status in ("idle", "busy", "interrupted", "error"):
        found = await journal.threads.search(TENANT, status=status)
        assert [record.id for record in found] == ([thread] if status == expected else [])


async def test_a_search_wants_everything_exactly(journal: Journal):
    made = [
        await journal.threads.create(TENANT, None, {"user": user, "n": n, "deep": {"b": [n], "a": 1}})
        for user in ("ann", "bob")
        for n in range(3)
    ]
    ids = [record.id for record in made]
    await journal.threads.create(OTHER, None, {"user": "ann", "n": 1})
    await answered(journal, ids[1], "q", "a", topic="rays")
    await answered(journal, ids[2], "q", "a", topic="rays")
    await answered(journal, ids[2], "q", "a", topic="cars")

    async def found(**filters) -> list[str]:
        return [record.id for record in await journal.threads.search(TENANT, **filters)]

    assert await found() == ids[::-1]
    assert await found(metadata={"user": "bob"}) == ids[:2:-1]
    assert await found(metadata={"user": "ann", "n": 1}) == [ids[1]]
    assert await found(metadata={"deep": {"a": 1, "b": [2]}}) == [ids[5], ids[2]]
    assert await found(metadata={"n": "1"}) == await found(metadata={"user": "an"}) == []
    # Only what it is now, not what it was.
    assert await found(values={"topic": "rays"}) == [ids[1]]
    assert await found(values={"topic": "cars"}, metadata={"user": "ann"}) == [ids[2]]
    assert await found(limit=2, offset=1) == ids[4:2:-1]
    [record] = await journal.threads.search(TENANT, values={"topic": "cars"})
    assert record == await journal.threads.get(TENANT, ids[2])


async def test_a_copy_is_its_own(journal: Journal):
    thread = (await journal.threads.create(TENANT, None, {"a": 1})).id
    for turn in range(2):
        await answered(journal, thread, f"q{turn}", f"a{turn}", turn=turn)
    original = await journal.threads.get(TENANT, thread)
    await claimed(journal, thread=thread)

    copied = await journal.threads.copy(TENANT, thread)
    assert copied.id != thread
    assert (copied.status, copied.metadata, copied.values) == ("idle", {"a": 1}, {"turn": 1})
    assert copied.messages == original.messages
    theirs = await journal.threads.history(TENANT, copied.id)
    assert [s.checkpoint for s in theirs] == [
        s.checkpoint for s in await journal.threads.history(TENANT, thread)
    ]

    await journal.threads.patch(TENANT, copied.id, {"a": 2}, {"turn": 9}, [message("user", "more")])
    assert (await journal.threads.get(TENANT, thread)).values == original.values
    assert [t.id for t in await journal.threads.search(TENANT, {"a": 1}, {"turn": 1})] == [thread]
    assert [t.id for t in await journal.threads.search(TENANT, {"a": 2}, {"turn": 9})] == [copied.id]


async def test_a_busy_thread_is_not_deleted(journal: Journal):
    thread = (await journal.threads.create(TENANT, None, {"a": 1})).id
    done = await answered(journal, thread, "q", "a", x=1)
    queued, _ = await journal.create_run(a_run(thread=thread))

    with pytest.raises(Conflict) as refused:
        await journal.threads.delete(TENANT, thread)
    assert (refused.value.code, queued.id in refused.value.message) == ("thread_busy", True)

    run = await journal.claim(queued.id, "me")
    await journal.commit(run.id, run.epoch, [RunChange("interrupted")])
    await journal.threads.delete(TENANT, thread)
    with pytest.raises(NotFound):
        await journal.threads.get(TENANT, thread)
    for table in (thread_labels, thread_messages, thread_states):
        assert await rows(journal, table) == 0
    # The run stays, and another thread of this id knows nothing of it.
    assert (await journal.get_run(TENANT, done.id)).thread is None
    assert (await journal.threads.create(TENANT, thread)).status == "idle"


async def test_a_run_needs_a_thread_that_is_there(journal: Journal):
    theirs = await journal.threads.create(OTHER)
    for thread in (theirs.id, str(uuid.uuid4()), "a\0b"):
        with pytest.raises(NotFound):
            await journal.create_run(a_run(thread=ThreadId(thread)))


async def test_runs_and_the_deletion_of_their_thread_do_not_cross(
    url: str, journal: Journal, clock: ManualClock
):
    second = await Journal.open(url, clock)
    try:
        for _ in range(15):
            thread = (await journal.threads.create(TENANT)).id
            deleted, created = await asyncio.gather(
                journal.threads.delete(TENANT, thread),
                second.create_run(a_run(thread=thread)),
                return_exceptions=True,
            )
            # Either the thread has its run, or there is neither.
            if deleted is None:
                assert isinstance(created, NotFound)
            else:
                assert isinstance(deleted, Conflict)
                assert created[0].thread == thread
                assert (await journal.threads.get(TENANT, thread)).status == "busy"
    finally:
        await second.close()


async def test_states_of_two_processes_are_all_kept(url: str, journal: Journal, clock: ManualClock):
    second = await Journal.open(url, clock)
    thread = (await journal.threads.create(TENANT)).id
    try:
        await asyncio.gather(
            *(
                j.threads.patch(TENANT, thread, values={f"{n}": n}, messages=[message("user", f"{n}")])
                for j, start in ((journal, 0), (second, 10))
                for n in range(start, start + 10)
            )
        )
    finally:
        await second.close()
    record = await journal.threads.get(TENANT, thread)
    assert sorted(map(int, contents(record))) == list(range(20))
    assert record.values == {f"{n}": n for n in range(20)}


async def test_another_tenants_thread_is_not_there(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    await answered(journal, thread, "q", "a")
    rooms = journal.threads
    checkpoint = (await rooms.history(TENANT, thread))[0].checkpoint

    for call in (
        rooms.get(OTHER, thread),
        rooms.patch(OTHER, thread, {"a": 1}),
        rooms.delete(OTHER, thread),
        rooms.copy(OTHER, thread),
        rooms.history(OTHER, thread),
        rooms.state(OTHER, thread),
        rooms.get(TENANT, ThreadId("\0")),
        rooms.history(TENANT, thread, before=str(uuid.uuid4())),
        rooms.patch(TENANT, thread, values={}, checkpoint="\ud800"),
    ):
        with pytest.raises(NotFound):
            await call
    assert await rooms.search(OTHER) == []
    theirs = await rooms.create(OTHER, thread)
    with pytest.raises(NotFound):
        await rooms.patch(OTHER, theirs.id, values={}, checkpoint=checkpoint)
    assert contents(await rooms.get(TENANT, thread)) == ["q", "a"]


@pytest.mark.parametrize(("limit", "offset"), [(0, 0), (1001, 0), (1, -1), (1, 1 << 40)])
async def test_a_page_of_no_sense_is_refused(journal: Journal, limit: int, offset: int):
    with pytest.raises(InvalidInput):
        await journal.threads.search(TENANT, limit=limit, offset=offset)
