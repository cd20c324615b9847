"""How versions did: totals that processes tell add up once, and ratings count by the version that was meant."""

import math
from dataclasses import replace

import pytest

from coordinator.experiments import Arm, Comparison
from coordinator.routes import choose, sticky_key
from coordinator.store.journal import Journal
from coordinator.store.model_records import ArmTotals, Route
from manta.clock import ManualClock
from manta.errors import InvalidInput, NotFound
from manta.ids import Tenant
from manta.messages import to_json
from tests.store.model_support import a_model, activated
from tests.store.support import OTHER, TENANT, at_work, intent, scope


async def a_split(journal: Journal, sticky: str = "run") -> Route:
    await a_model(journal, "a", "b")
    await journal.models.split("m", {1: 50, 2: 50}, sticky)
    return await activated(journal)


def told(route: Route, version: int, calls: int, failures: int = 0, seconds: float = 0.5) -> ArmTotals:
    """Of calls that all took as long."""
    answered, log = calls - failures, math.log(seconds)
    sums = (answered * log, answered * log * log)
    return ArmTotals(
        "m", route.revision, version, calls, failures, answered, *sums, *sums, answered * 10, answered * 7.0,
        answered * 49.0,
    )  # fmt: skip


def figures(arm: Arm) -> dict[str, tuple[int, float | None]]:
    return {figure.metric: (figure.n, figure.value) for figure in arm.figures}


async def a_rated_run(
    journal: Journal, *ratings: int, model: str = "m", **changes: str
) -> tuple[Tenant, str, str]:
    """Tenant, id and principal of a run that asked the model and was rated."""
    run = await at_work(journal, **changes)
    await journal.begin_call(intent(scope(run), kind="model", name=model))
    for rating in ratings:
        await journal.feedback.add(run.tenant, run.id, "reader", rating)
    return run.tenant, run.id, run.principal


def rated(found: Comparison) -> dict[int, tuple[int, float | None]]:
    return {arm.version: figures(arm)["rating"] for arm in found.arms}


async def test_totals_of_processes_add_up_and_a_repeated_word_counts_once(journal: Journal):
    route = await a_split(journal)
    before = await journal.models.book()
    for _ in range(2):
        await journal.models.record("gateway", [told(route, 1, 40, 4), told(route, 2, 10)])
        await journal.models.record("agent", [told(route, 1, 20, 1, 2.0)])
    # One that was overtaken on its way.
    await journal.models.record("gateway", [told(route, 1, 30, 3)])
    await journal.models.record("gateway", [])

    found = await journal.models.comparison("m")
    one, two = found.arms
    assert (one.version, one.calls, one.failures, one.output_tokens, one.share) == (1, 60, 5, 550, 0.5)
    assert (two.version, two.calls, two.failures, two.output_tokens) == (2, 10, 0, 100)
    assert figures(one)["failures"] == (60, 5 / 60)
    n, first = figures(one)["first_s"]
    assert (n, first) == (55, pytest.approx(0.5 ** (36 / 55) * 2 ** (19 / 55)))
    assert figures(two)["total_s"] == (10, pytest.approx(0.5))
    assert figures(two)["cost"] == (10, pytest.approx(7e-6))
    assert not found.enough
    # Counting is no change of the models.
    assert before is not None
    assert await journal.models.book(before.generation) is None


async def test_each_route_has_its_own_figures(journal: Journal):
    first = await a_split(journal)
    await journal.models.record("a", [told(first, 1, 40), told(first, 2, 40)])
    await journal.models.split("m", {1: 10, 2: 90})
    second = await activated(journal)
    await journal.models.record("a", [told(second, 2, 5)])
    await journal.models.promote("m", 2)
    await activated(journal)
    # What was under way when the route changed.
    await journal.models.record("a", [told(second, 1, 1)])

    newest, older = await journal.models.comparison("m"), await journal.models.comparison("m", first.revision)
    assert (newest.revision, newest.state, [arm.calls for arm in newest.arms]) == (
        second.revision,
        "past",
        [1, 5],
    )
    assert [arm.share for arm in newest.arms] == [0.1, 0.9]
    assert (older.revision, [arm.calls for arm in older.arms]) == (first.revision, [40, 40])
    assert to_json(older)["differences"][0]["enough"] is True


async def test_what_was_not_split_is_not_compared(journal: Journal):
    with pytest.raises(NotFound) as missing:
        await journal.models.comparison("m")
    assert missing.value.code == "model_not_found"
    await a_model(journal, "a", "b")
    waiting = await journal.models.split("m", {1: 1, 2: 1})
    for revision in (None, 1, waiting.revision, 99, 1 << 80):
        with pytest.raises(NotFound) as missing:
            await journal.models.comparison("m", revision)
        assert missing.value.code == "no_comparison"


async def test_a_run_is_rated_once_for_the_version_that_was_meant(journal: Journal):
    route = await a_split(journal)
    ratings: dict[int, list[float]] = {1: [], 2: []}
    for n in range(12):
        _, run, _ = await a_rated_run(journal, 1 + n % 5, 5, tenant=(TENANT, OTHER)[n % 2])
        ratings[choose(route, run)].append((1 + n % 5 + 5) / 2)

    found = rated(await journal.models.comparison("m"))
    assert {version: n for version, (n, _) in found.items()} == {v: len(r) for v, r in ratings.items()}
    for version, values in ratings.items():
        if values:
            assert found[version][1] == pytest.approx(sum(values) / len(values))


async def test_only_runs_of_that_time_that_asked_the_model_count(journal: Journal, clock: ManualClock):
    await a_model(journal, "a", "b")
    await a_rated_run(journal, 1)
    await clock.advance(10)
    await journal.models.split("m", {1: 50, 2: 50})
    split = await activated(journal)
    counted = {(await a_rated_run(journal, 3))[1]}
    await a_rated_run(journal, 1, model="another")
    await a_rated_run(journal)
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run), kind="tool", name="m"))
    await journal.feedback.add(run.tenant, run.id, "reader", 1)
    await clock.advance(10)
    await journal.models.promote("m", 2)
    await activated(journal)
    await a_rated_run(journal, 1)
    late = await journal.models.comparison("m", split.revision)

    assert sum(n for n, _ in rated(late).values()) == len(counted)
    assert {value for _, value in rated(late).values() if value is not None} == {3.0}


async def test_by_user_all_runs_of_a_user_count_for_one_version(journal: Journal):
    route = await a_split(journal, "user")
    meant: dict[int, int] = {1: 0, 2: 0}
    for name in ("ann", "bob", "cleo", "dan"):
        for _ in range(2):
            tenant, run, principal = await a_rated_run(journal, 4, principal=name)
            key = sticky_key("user", run, tenant, principal)
            assert key == f"{TENANT}/{name}"
            meant[choose(route, key)] += 1
    assert {v: n for v, (n, _) in rated(await journal.models.comparison("m")).items()} == meant
    assert all(n % 2 == 0 for n in meant.values())


async def test_what_sticks_to_nothing_has_no_ratings(journal: Journal):
    await a_split(journal, "none")
    await a_rated_run(journal, 4)
    assert rated(await journal.models.comparison("m")) == {1: (0, None), 2: (0, None)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"calls": -1},
        {"calls": 1 << 80},
        {"first_log_sum": float("nan")},
        {"total_log_squares": float("inf")},
        {"micros_sum": -1.0},
        {"micros_squares": -1.0},
    ],
    ids=str,
)
async def test_totals_that_cannot_be_are_refused(journal: Journal, wrong: dict):
    route = await a_split(journal)
    good = told(route, 1, 5)
    with pytest.raises(InvalidInput):
        await journal.models.record("a", [good, replace(good, version=2, **wrong)])
    for meter in ("", "x" * 33, "a\n"):
        with pytest.raises(InvalidInput):
            await journal.models.record(meter, [good])
    assert [arm.calls for arm in (await journal.models.comparison("m")).arms] == [0, 0]


async def test_totals_of_what_is_not_there_harm_nothing(journal: Journal):
    route = await a_split(journal)
    await journal.models.record("a", [replace(told(route, 1, 5), model="gone"), told(route, 9, 5)])
    assert [arm.calls for arm in (await journal.models.comparison("m")).arms] == [0, 0]
