"""The registry of models when many write at once, when requests are repeated, and when they are of no use."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from coordinator.store.journal import Journal
from manta.clock import ManualClock
from manta.errors import Conflict, IdempotencyConflict, InvalidInput, MantaError, NotFound
from tests.store.model_support import a_model, activated, deployed, settings, weights


@pytest.fixture
async def second(journal: Journal, url: str, clock: ManualClock) -> AsyncIterator[Journal]:
    """Another process's way to the same journal."""
    opened = await Journal.open(url, clock)
    yield opened
    await opened.close()


async def test_versions_added_at_once_have_numbers_without_gaps(journal: Journal, second: Journal):
    made = await asyncio.gather(
        *((journal, second)[n % 2].models.add("m", settings(str(n))) for n in range(10))
    )

    assert sorted(version.version for version in made) == list(range(1, 11))
    assert [v.settings for v in (await journal.models.get("m")).versions] == [
        v.settings for v in sorted(made, key=lambda v: v.version)
    ]
    # The first of them, whichever it is, made the route.
    assert [route.weights for route in (await second.models.plan()).pending] == [{1: 100}]


async def test_routes_asked_for_at_once_leave_one_that_waits(journal: Journal, second: Journal):
    await a_model(journal, *"abcdef")
    routes = await asyncio.gather(
        *((journal, second)[n % 2].models.promote("m", n) for n in range(2, 7)),
    )

    on_file = await journal.models.get("m")
    newest = max(routes, key=lambda route: route.revision)
    assert sorted(route.revision for route in routes) == [2, 3, 4, 5, 6]
    assert on_file.pending == newest
    assert [r.error for r in on_file.history] == ["", *["superseded"] * 4, ""]
    # All keepers of a restart at once; those of older routes are late.
    await asyncio.gather(
        *((journal, second)[n % 2].models.activate("m", route.revision) for n, route in enumerate(routes)),
    )
    assert await weights(second) == {"m": newest.weights}


async def test_one_wish_told_by_two_is_one_route(journal: Journal, second: Journal):
    await a_model(journal, "a", "b")
    one, other = await asyncio.gather(journal.models.promote("m", 2), second.models.promote("m", 2))
    assert one == other
    backs = await asyncio.gather(*(j.models.declare({"m": settings("c")}) for j in (journal, second)))
    assert [served.route.weights for book in backs for served in book.models] == [{3: 100}] * 2


async def test_what_is_needed_again_while_it_is_retired_stays_up(
    journal: Journal, second: Journal, clock: ManualClock
):
    await a_model(journal, "a", "b")
    for _ in range(5):
        await journal.models.promote("m", keep_s=0)
        await activated(journal)
        _, gone = await asyncio.gather(journal.models.rollback("m"), second.models.retire("m", 1))
        # Either it went first and comes up again, or it did not go: the plan has it in any case.
        assert type(gone) is bool
        assert ("m", 1) in deployed(await second.models.plan())
        assert not await second.models.retire("m", 1)
        await activated(journal)


async def test_a_key_makes_one_version(journal: Journal, second: Journal):
    made = await asyncio.gather(
        *(j.models.add("m", settings("a"), key="k") for j in (journal, second, journal, second))
    )
    assert [version.version for version in made] == [1] * 4
    await activated(journal)
    await journal.models.scale("m", {"max": 4})
    assert (await journal.models.add("m", settings("a"), key="k")).version == 1
    with pytest.raises(IdempotencyConflict):
        await journal.models.add("m", settings("b"), key="k")
    with pytest.raises(IdempotencyConflict):
        await journal.models.add("m", settings("a"), note="other", key="k")
    # Another model's keys are its own.
    assert (await journal.models.add("n", settings("b"), key="k")).model == "n"


async def test_a_key_with_a_print_makes_one_version_of_one_request(journal: Journal):
    made = await journal.models.add("m", settings("a"), key="k%.1")
    await activated(journal)
    await journal.models.scale("m", {"max": 4})
    assert (await journal.models.add("m", settings("a"), key="k%.1")).version == made.version
    with pytest.raises(IdempotencyConflict):
        await journal.models.add("m", settings("a", replicas={"max": 2}), key="k%.2")
    assert (await journal.models.add("m", settings("b"), key="kx.1")).version == 2


async def test_a_key_whose_version_was_removed_makes_none(journal: Journal):
    await a_model(journal, "a")
    await journal.models.add("m", settings("b"), key="k")
    await journal.models.remove("m", 2)
    with pytest.raises(Conflict) as refused:
        await journal.models.add("m", settings("b"), key="k")
    assert refused.value.code == "version_removed"


async def test_the_same_settings_are_no_new_version(journal: Journal, clock: ManualClock):
    await a_model(journal, "a")
    for same in (settings("a"), settings("a", replicas={"max": 9}), {"backend": "sleep", "source": "a"}):
        with pytest.raises(Conflict) as refused:
            await journal.models.add("m", same)
        assert refused.value.code == "model_version_exists"
    await journal.models.add("m", settings("b"))
    await journal.models.remove("m", 2)
    await clock.advance(60)
    await journal.models.retire("m", 2)
    # What is not up any more may come again.
    assert (await journal.models.add("m", settings("b"))).version == 3


async def test_scaling_changes_replicas_in_place(journal: Journal):
    await a_model(journal, "a", "b", "c")
    await journal.models.split("m", {1: 30, 2: 70})
    await activated(journal)

    scaled = await journal.models.scale("m", {"min": 2, "max": 5})
    assert scaled.version == 2
    assert scaled.settings == settings("b", replicas={"min": 2, "max": 5})
    again = await journal.models.scale("m", {"min": 0}, 2)
    assert again.settings["replicas"] == settings(replicas={"min": 0, "max": 5})["replicas"]
    assert (await journal.models.scale("m", {"max": 3}, 3)).version == 3
    with pytest.raises(InvalidInput, match=r"replicas"):
        await journal.models.scale("m", {"min": 9}, 1)
    with pytest.raises(InvalidInput, match=r"replicas\.number"):
        await journal.models.scale("m", {"number": 9})
    with pytest.raises(NotFound):
        await journal.models.scale("m", {"max": 2}, 9)
    plan = await journal.models.plan()
    assert [version.settings["replicas"]["max"] for version in plan.up] == [1, 5, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": {}},
        {"weights": {1: 0}},
        {"weights": {1: -1}},
        {"weights": {1: 1.5}},
        {"weights": {1: True}},
        {"weights": {True: 1}},
        {"weights": {1: 1_000_001}},
        {"weights": {1: 1}, "sticky": "tenant"},
        {"weights": {1: 1}, "keep_s": -1},
        {"weights": {1: 1}, "keep_s": float("inf")},
        {"weights": {1: 1}, "keep_s": float("nan")},
        {"weights": {1: 1}, "by": "a\nb"},
        {"weights": {1: 1}, "by": "x" * 256},
    ],
    ids=str,
)
async def test_a_route_that_cannot_be_is_refused(journal: Journal, wrong: dict):
    await a_model(journal, "a")
    before = await journal.models.get("m")
    with pytest.raises(InvalidInput):
        await journal.models.split("m", **wrong)
    assert await journal.models.get("m") == before


@pytest.mark.parametrize("version", ["1", None, 1 << 80, 0, -1, "1\x00"], ids=repr)
async def test_a_version_that_is_not_there(journal: Journal, version: object):
    await a_model(journal, "a")
    with pytest.raises(NotFound) as missing:
        await journal.models.split("m", {version: 1})
    assert missing.value.code == "version_not_found"


async def test_a_route_has_sixteen_versions_at_most(journal: Journal):
    await a_model(journal, *(str(n) for n in range(17)))
    with pytest.raises(InvalidInput):
        await journal.models.split("m", dict.fromkeys(range(1, 18), 1))
    assert len((await journal.models.split("m", dict.fromkeys(range(2, 18), 1_000_000))).weights) == 16


@pytest.mark.parametrize(
    "name", ["", "M", "1a", "a b", "a/b", "a\x00", "é", "x" * 64, "-a", None, 5], ids=repr
)
async def test_a_name_that_cannot_be(journal: Journal, name: str):
    with pytest.raises(InvalidInput):
        await journal.models.add(name, settings("a"))
    with pytest.raises(InvalidInput):
        await journal.models.declare({name: settings("a")})
    for call in (journal.models.get(name), journal.models.promote(name), journal.models.remove(name)):
        with pytest.raises(NotFound):
            await call


@pytest.mark.parametrize(
    "wrong",
    [
        {"settings": {"source": "x" * 65_536}},
        {"settings": {"source": float("nan")}},
        {"settings": {"source": object()}},
        {"settings": ["source"]},
        {"settings": {1: 2}},
        {"note": "x" * 1001},
        {"key": ""},
        {"key": "x" * 256},
        {"by": "\x00"},
    ],
    ids=lambda wrong: str(wrong)[:30],
)
async def test_a_version_that_cannot_be_kept_is_refused(journal: Journal, wrong: dict):
    with pytest.raises(InvalidInput):
        await journal.models.add(**{"model": "m", "settings": settings("a"), **wrong})
    assert await journal.models.list() == []


async def test_a_refusal_leaves_nothing_behind(journal: Journal):
    calls = (journal.models.add("m", settings("a"), by="a\nb"), journal.models.promote("m", 1))
    for call in calls:
        with pytest.raises(MantaError):
            await call
    await a_model(journal, "a")
    assert [v.version for v in (await journal.models.get("m")).versions] == [1]
