"""The registry of models: versions with numbers, routes that change without a gap, what may go down and when."""

import pickle

import pytest

from coordinator.store.journal import Journal
from manta.clock import ManualClock
from manta.errors import Conflict, NotFound
from tests.store.model_support import a_model, activated, deployed, settings, weights


async def test_a_new_model_serves_once_its_version_runs(journal: Journal, clock: ManualClock):
    made = await journal.models.add("m", settings("a"), by="ann", note="the first\x00")

    assert (made.version, made.source, made.note, made.created_by) == (1, "api", "the first\x00", "ann")
    assert (made.settings, made.up, made.down_at) == (settings("a"), True, None)
    assert await weights(journal) == {}
    plan = await journal.models.plan()
    assert deployed(plan) == [("m", 1)]
    (pending,) = plan.pending
    assert (pending.weights, pending.why, pending.active_at) == ({1: 100}, "added", None)
    await clock.advance(5)
    await journal.models.activate("m", pending.revision)
    book = await journal.models.book()
    assert book is not None
    (served,) = book.models
    assert served.versions == (made,)
    assert (served.route.state, served.route.active_at) == ("active", clock.now())
    assert pickle.loads(pickle.dumps(book)) == book


async def test_another_version_gets_no_calls_until_it_is_promoted(journal: Journal, clock: ManualClock):
    await a_model(journal, "a")
    second = await journal.models.add("m", settings("b"))

    assert (second.version, second.up) == (2, True)
    assert (await journal.models.plan()).pending == ()
    route = await journal.models.promote("m", keep_s=60, by="ann")
    assert (route.weights, route.why, route.state, route.created_by) == (
        {2: 100},
        "promoted",
        "pending",
        "ann",
    )
    assert await weights(journal) == {"m": {1: 100}}
    await clock.advance(7)
    assert (await activated(journal)).weights == {2: 100}
    on_file = await journal.models.get("m")
    assert [(v.version, v.up, v.down_at) for v in on_file.versions] == [
        (1, True, clock.now() + 60),
        (2, True, None),
    ]
    assert [(r.state, r.ended_at) for r in on_file.history] == [("active", None), ("past", clock.now())]


async def test_the_book_is_told_only_after_a_change(journal: Journal):
    book = await journal.models.book()
    assert book is not None
    assert await journal.models.book(book.generation) is None
    for change in (
        lambda: journal.models.add("m", settings("a")),
        lambda: activated(journal),
        lambda: journal.models.add("m", settings("b")),
        lambda: journal.models.split("m", {1: 90, 2: 10}),
        lambda: journal.models.fail("m", 2, "no memory"),
        lambda: journal.models.promote("m", 2),
        lambda: activated(journal),
        lambda: journal.models.scale("m", {"max": 3}),
        lambda: journal.models.remove("m", 1),
        lambda: journal.models.declare({"n": settings("a")}),
        lambda: journal.models.remove("m"),
    ):
        await change()
        after = await journal.models.book(book.generation)
        assert after is not None
        assert after.generation > book.generation
        book = after
    assert await weights(journal) == {"n": {1: 100}}
    # What changes nothing tells nothing.
    for _ in range(2):
        await journal.models.declare({"n": settings("a")})
        await journal.models.promote("n")
        await journal.models.scale("n", {})
        await journal.models.remove("m")
        await journal.models.activate("n", 1)
        await journal.models.fail("n", 1, "late")
        assert await journal.models.book(book.generation) is None


async def test_a_split_grows_and_every_answer_repeated_is_the_same(journal: Journal):
    await a_model(journal, "a", "b")
    first = await journal.models.split("m", {2: 10, 1: 90}, "user")

    assert await journal.models.split("m", {1: 90, 2: 10}, "user") == first
    assert (first.weights, first.sticky, first.why) == ({1: 90, 2: 10}, "user", "split")
    active = await activated(journal)
    assert await journal.models.split("m", {1: 90, 2: 10}, "user") == active
    # Another stickiness is another route; of one version it says nothing.
    assert (await journal.models.split("m", {1: 90, 2: 10}, "run")).revision == first.revision + 1
    await journal.models.promote("m", 2)
    active = await activated(journal)
    assert await journal.models.promote("m", 2) == active
    assert await journal.models.split("m", {2: 7}, "none") == active


async def test_a_newer_wish_takes_the_place_of_one_that_waits(journal: Journal, clock: ManualClock):
    await a_model(journal, "a", "b", "c")
    old = await journal.models.split("m", {1: 50, 2: 50})
    new = await journal.models.promote("m", 3, keep_s=9)

    await journal.models.activate("m", old.revision)
    await journal.models.fail("m", old.revision, "too late")
    on_file = await journal.models.get("m")
    assert on_file.pending == new
    assert on_file.route is not None
    assert on_file.route.weights == {1: 100}
    assert [(r.state, r.error) for r in on_file.history] == [
        ("pending", ""),
        ("failed", "superseded"),
        ("active", ""),
    ]
    assert [v.down_at for v in on_file.versions] == [None, clock.now() + 9, None]
    # Back to what is active: nothing is pending any more.
    assert (await journal.models.promote("m", 1)).state == "active"
    assert (await journal.models.get("m")).pending is None
    assert await weights(journal) == {"m": {1: 100}}


async def test_a_route_that_fails_leaves_the_one_that_serves(journal: Journal, clock: ManualClock):
    await a_model(journal, "a", "b")
    route = await journal.models.promote("m", 2, keep_s=30)
    await journal.models.fail("m", route.revision, "out of memory\x00" + "x" * 10_000)

    on_file = await journal.models.get("m")
    assert on_file.pending is None
    assert on_file.history[0].state == "failed"
    assert on_file.history[0].error.startswith("out of memory\x00")
    assert len(on_file.history[0].error) == 4000
    assert await weights(journal) == {"m": {1: 100}}
    assert [v.down_at for v in on_file.versions] == [None, clock.now() + 30]
    await journal.models.activate("m", route.revision)
    assert await weights(journal) == {"m": {1: 100}}
    again = await journal.models.promote("m", 2)
    assert again.revision == route.revision + 1
    assert [v.down_at for v in (await journal.models.get("m")).versions] == [None, None]


async def test_a_model_whose_first_version_fails_gets_a_route_with_the_next(journal: Journal):
    await journal.models.add("m", settings("broken"))
    await journal.models.fail("m", 1, "no such file")
    assert await weights(journal) == {}

    await journal.models.add("m", settings("mended"))
    assert (await activated(journal)).weights == {2: 100}


async def test_a_version_goes_down_when_its_time_is_over_and_no_route_needs_it(
    journal: Journal, clock: ManualClock
):
    await a_model(journal, "a", "b")
    await journal.models.promote("m", 2, keep_s=60)
    await activated(journal)

    assert not await journal.models.retire("m", 1)
    assert not await journal.models.retire("m", 2)
    await clock.advance(60)
    assert await journal.models.retire("m", 1)
    assert deployed(await journal.models.plan()) == [("m", 2)]
    assert await journal.models.retire("m", 1)
    assert await journal.models.retire("m", 77)
    assert await journal.models.retire("nobody", 1)


async def test_a_version_that_a_new_route_needs_is_not_retired(journal: Journal, clock: ManualClock):
    await a_model(journal, "a", "b")
    await journal.models.promote("m", 2, keep_s=5)
    await activated(journal)
    await clock.advance(5)
    route = await journal.models.rollback("m")

    assert not await journal.models.retire("m", 1)
    await journal.models.fail("m", route.revision, "no")
    assert not await journal.models.retire("m", 1)
    await clock.advance(300)
    assert await journal.models.retire("m", 1)
    # One that is down comes up for a route.
    await journal.models.split("m", {1: 1, 2: 1})
    assert deployed(await journal.models.plan()) == [("m", 1), ("m", 2)]


async def test_rolling_back_goes_to_what_served_before(journal: Journal):
    await a_model(journal, "a", "b", "c")
    with pytest.raises(Conflict) as refused:
        await journal.models.rollback("m")
    assert refused.value.code == "no_earlier_route"
    await journal.models.split("m", {1: 90, 2: 10}, "user")
    await activated(journal)
    await journal.models.promote("m", 2)
    promoted = await activated(journal)
    failed = await journal.models.promote("m", 3)
    await journal.models.fail("m", failed.revision, "no")

    back = await journal.models.rollback("m", by="ann", revision=promoted.revision)
    assert (back.weights, back.sticky, back.why, back.created_by) == (
        {1: 90, 2: 10},
        "user",
        "rolled_back",
        "ann",
    )
    assert await journal.models.rollback("m", revision=promoted.revision) == back
    active = await activated(journal)
    # The same request once more, after the keeper was quick.
    assert await journal.models.rollback("m", revision=promoted.revision) == active
    assert (await journal.models.rollback("m")).weights == {2: 100}


async def test_a_rollback_gives_up_what_is_pending_and_repeated_nothing_more(journal: Journal):
    await journal.models.declare({"m": settings("a")})
    await journal.models.add("m", settings("b"))
    await journal.models.promote("m")
    await activated(journal)
    await journal.models.add("m", settings("c"))
    wanted = await journal.models.promote("m")
    active = (await journal.models.get("m")).route
    for _ in range(2):
        back = await journal.models.rollback("m", "ann", active.revision, wanted.revision)
        assert back == active
    model = await journal.models.get("m")
    assert (model.route, model.pending) == (active, None)
    assert model.history[0].error == "superseded"


async def test_what_was_removed_is_not_rolled_back_to(journal: Journal, clock: ManualClock):
    await a_model(journal, "a", "b", "c")
    for version in (2, 3):
        await journal.models.promote("m", version)
        await activated(journal)
    await journal.models.remove("m", 2)

    assert [v.version for v in (await journal.models.get("m")).versions] == [1, 3]
    # Others may still send calls there, for a moment.
    assert deployed(await journal.models.plan()) == [("m", 1), ("m", 2), ("m", 3)]
    await clock.advance(10)
    assert await journal.models.retire("m", 2)
    assert (await journal.models.rollback("m")).weights == {1: 100}
    for call in (journal.models.promote("m", 2), journal.models.split("m", {2: 1, 3: 1})):
        with pytest.raises(NotFound) as missing:
            await call
        assert missing.value.code == "version_not_found"
    assert (await journal.models.add("m", settings("b"))).version == 4


async def test_a_version_with_calls_is_not_removed(journal: Journal):
    await a_model(journal, "a", "b")
    await journal.models.promote("m", 2)

    for version in (1, 2):
        with pytest.raises(Conflict) as refused:
            await journal.models.remove("m", version)
        assert refused.value.code == "version_in_use"
    with pytest.raises(NotFound):
        await journal.models.remove("m", 3)
    with pytest.raises(NotFound):
        await journal.models.remove("n")


async def test_a_removed_model_is_gone_and_its_numbers_stay_taken(journal: Journal, clock: ManualClock):
    await a_model(journal, "a", "b")
    await journal.models.promote("m")
    for _ in range(2):
        await journal.models.remove("m")

    assert (await weights(journal), await journal.models.list()) == ({}, [])
    for call in (journal.models.get("m"), journal.models.promote("m"), journal.models.scale("m", {})):
        with pytest.raises(NotFound) as missing:
            await call
        assert missing.value.code == "model_not_found"
    await journal.models.activate("m", 2)
    assert await weights(journal) == {}
    await clock.advance(10)
    assert await journal.models.retire("m", 1)
    assert await journal.models.retire("m", 2)
    assert deployed(await journal.models.plan()) == []
    back = await journal.models.add("m", settings("a"))
    assert (back.version, (await activated(journal)).revision) == (3, 3)
    assert [v.version for v in (await journal.models.get("m")).versions] == [3]
