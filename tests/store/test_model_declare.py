"""The models of the settings file: what changes there changes here, and nothing else does."""

import pytest

from coordinator.store.journal import Journal
from manta.clock import ManualClock
from manta.errors import InvalidInput
from tests.store.model_support import a_model, activated, deployed, settings, weights
from tests.store.test_old_journals import old as old


async def test_what_is_declared_serves_at_once(journal: Journal, clock: ManualClock):
    book = await journal.models.declare({"n": settings("b"), "m": settings("a")})

    assert [served.model for served in book.models] == ["m", "n"]
    assert book == await journal.models.book()
    (version,) = book.models[0].versions
    assert (version.version, version.source, version.settings) == (1, "file", settings("a"))
    route = book.models[0].route
    assert (route.weights, route.why, route.state, route.active_at) == (
        {1: 100},
        "declared",
        "active",
        clock.now(),
    )
    assert (await journal.models.plan()).pending == ()


async def test_what_was_done_while_running_outlives_a_restart(journal: Journal):
    await journal.models.declare({"m": settings("a")})
    await journal.models.add("m", settings("b"))
    await journal.models.promote("m")
    await activated(journal)
    await journal.models.scale("m", {"max": 3}, 1)
    before = await journal.models.get("m")

    book = await journal.models.declare({"m": settings("a")})
    assert book.models[0].route.weights == {2: 100}
    assert await journal.models.get("m") == before


async def test_a_change_in_the_file_is_promoted(journal: Journal, clock: ManualClock):
    await journal.models.declare({"m": settings("a")})
    await journal.models.add("m", settings("b"))
    await journal.models.split("m", {1: 50, 2: 50})
    book = await journal.models.declare({"m": settings("c")})

    assert book.models[0].route.weights == {3: 100}
    plan = await journal.models.plan()
    # Nothing serves yet, so nothing has to stay up for a way back.
    assert (deployed(plan), plan.pending) == ([("m", 3)], ())
    assert (await journal.models.rollback("m")).weights == {1: 100}
    # Back in the file is a change too.
    book = await journal.models.declare({"m": settings("a")})
    assert book.models[0].route.weights == {4: 100}


async def test_a_promotion_outlives_the_removal_of_the_version_from_the_file(journal: Journal):
    await journal.models.declare({"m": settings("a")})
    await journal.models.add("m", settings("b"))
    await journal.models.promote("m")
    await activated(journal)
    await journal.models.remove("m", 1)
    book = await journal.models.declare({"m": settings("a", replicas={"max": 4})})
    assert book.models[0].route.weights == {2: 100}
    # A change in the file is one all the same.
    book = await journal.models.declare({"m": settings("c")})
    assert book.models[0].route.weights == {3: 100}


async def test_while_a_platform_is_at_work_its_routes_serve_until_the_new_versions_run(
    journal: Journal, clock: ManualClock
):
    await journal.models.declare({"m": settings("a")})
    book = await journal.models.declare({"m": settings("b"), "n": settings("c")}, True)
    assert {served.model: served.route.weights for served in book.models} == {"m": {1: 100}, "n": {1: 100}}
    plan = await journal.models.plan()
    assert deployed(plan) == [("m", 1), ("m", 2), ("n", 1)]
    await activated(journal)
    assert (await journal.models.book()).models[0].route.weights == {2: 100}
    # For a way back, and for those who have not heard of it.
    version = (await journal.models.get("m")).versions[0]
    assert version.up
    assert version.down_at > clock.now()


async def test_other_replicas_in_the_file_are_no_other_version(journal: Journal):
    await journal.models.declare({"m": settings("a")})
    book = await journal.models.declare({"m": settings("a", replicas={"max": 4})})
    (version,) = book.models[0].versions
    assert (version.version, version.settings) == (1, settings("a", replicas={"max": 4}))
    await journal.models.scale("m", {"max": 6})
    book = await journal.models.declare({"m": settings("a", replicas={"max": 4})})
    assert book.models[0].versions[0].settings["replicas"]["max"] == 6
    book = await journal.models.declare({"m": settings("a", replicas={"max": 5})})
    assert book.models[0].versions[0].settings["replicas"]["max"] == 5


async def test_fields_that_an_older_version_did_not_have_change_nothing(journal: Journal):
    older = {name: value for name, value in settings("a").items() if name not in ("breaker", "fallbacks")}
    await journal.models.declare({"m": older})
    book = await journal.models.declare({"m": settings("a")})
    assert [version.version for version in book.models[0].versions] == [1]
    # What only another version of Manta can read is compared as it is.
    for _ in range(2):
        book = await journal.models.declare({"m": {"backend": "of the future"}})
        assert [version.version for version in book.models[0].versions] == [2]


async def test_what_is_gone_from_the_file_is_gone_unless_somebody_changed_it(journal: Journal):
    declared = {name: settings(name) for name in ("one", "two")}
    await journal.models.declare(declared)
    await journal.models.add("two", settings("other"))
    await a_model(journal, "a")
    book = await journal.models.declare({})

    assert [served.model for served in book.models] == ["m", "two"]
    assert deployed(await journal.models.plan()) == [("m", 1), ("two", 1), ("two", 2)]
    book = await journal.models.declare(declared)
    assert {served.model: served.route.weights for served in book.models} == {
        "m": {1: 100},
        "one": {2: 100},
        "two": {1: 100},
    }


async def test_a_model_that_was_removed_is_there_again_while_the_file_names_it(journal: Journal):
    await journal.models.declare({"m": settings("a")})
    await journal.models.remove("m")
    assert await weights(journal) == {}
    await journal.models.declare({"m": settings("a")})
    assert await weights(journal) == {"m": {2: 100}}


async def test_a_name_that_was_added_while_running_is_the_files_from_then_on(journal: Journal):
    await a_model(journal, "a")
    book = await journal.models.declare({"m": settings("b")})
    assert book.models[0].route.weights == {2: 100}
    assert [v.source for v in (await journal.models.get("m")).versions] == ["api", "file"]


async def test_what_was_to_go_down_is_not_started_again(journal: Journal, clock: ManualClock):
    await a_model(journal, "a", "b")
    await journal.models.promote("m", keep_s=60)
    await activated(journal)
    await clock.advance(59)
    await journal.models.declare({})
    assert deployed(await journal.models.plan()) == [("m", 1), ("m", 2)]
    await clock.advance(1)
    await journal.models.declare({})
    assert deployed(await journal.models.plan()) == [("m", 2)]


async def test_a_file_with_one_wrong_model_changes_nothing(journal: Journal):
    await journal.models.declare({"m": settings("a")})
    for wrong in ({"m": settings("b"), "N": settings("a")}, {"m": settings("b"), "n": {"x": "y" * 70_000}}):
        with pytest.raises(InvalidInput):
            await journal.models.declare(wrong)
    assert await weights(journal) == {"m": {1: 100}}


async def test_a_journal_of_an_older_version_takes_models(old: Journal):
    assert await old.models.book(0) is None
    await old.models.declare({"m": settings("a")})
    assert await weights(old) == {"m": {1: 100}}
