"""Which version answers, in whose place, and how soon a change of the registry is known."""

import pickle
from collections import Counter
from dataclasses import replace

import pytest

from coordinator.store.model_records import Book, Served
from manta.errors import ModelError, NotFound, ReplicaLost, Unavailable
from manta.ids import RunId, Tenant
from manta.messages import CallHints, ChatMessage
from manta.model_settings import RouterSettings
from serve_app.coordinators import AnyCoordinator
from serve_app.models.arms import arms_for, read_book
from serve_app.models.book import FRESH_S, OLD_S
from serve_app.models.platform_models import ServeModels
from serve_app.models.registry import Registry
from tests.models.registry_support import LocalRegistry, platform, route, served, version
from tests.models.support import OwnTime, Told, ask, text_of
from tests.waiting import eventually

ONCE = {"attempts": 1}


def routes(*models: Served):
    return read_book(LocalRegistry(*models).now)


def names(found):
    return [arm.name for arm in found]


def test_one_version_is_asked_whoever_asks():
    only = routes(served("a", {3: 1}))
    assert names(arms_for(only, "a", CallHints(), lambda: 0.9)) == ["a@3"]


def test_a_run_meets_one_version_and_the_other_stands_in_for_it():
    split = routes(served("a", {1: 90, 2: 10}))
    chosen = Counter()
    for number in range(1000):
        hints = CallHints(run=RunId(f"run-{number}"))
        orders = {tuple(names(arms_for(split, "a", hints, lambda: 0.5))) for _ in range(3)}
        assert len(orders) == 1
        chosen.update(orders)
    assert set(chosen) == {("a@1", "a@2"), ("a@2", "a@1")}
    assert 60 < chosen["a@2", "a@1"] < 140


def test_users_of_two_tenants_are_two_and_calls_without_either_go_by_chance():
    split = routes(served("a", {1: 50, 2: 50}, "user"))

    def of(tenant):
        hints = [CallHints(user=f"u{number}", tenant=Tenant(tenant)) for number in range(200)]
        return [names(arms_for(split, "a", each, lambda: 0.5))[0] for each in hints]

    assert of("one") == of("one") != of("other")
    drawn = {names(arms_for(split, "a", CallHints(), iter([n / 97]).__next__))[0] for n in range(97)}
    assert drawn == {"a@1", "a@2"}


def test_fallbacks_follow_with_their_own_routes_and_one_that_is_gone_is_passed_over():
    found = routes(
        served("a", {1: 1}, fallbacks=("b", "none", "c")), served("b", {4: 1}), served("c", {2: 1})
    )
    assert names(arms_for(found, "a", CallHints(), lambda: 0.0)) == ["a@1", "b@4", "c@2"]


async def test_who_answers_is_told_and_charged_at_its_own_price():
    clock = OwnTime()
    registry = LocalRegistry(
        served("a", {1: 1}, fallbacks=("b",), retry=ONCE, price={"output": 5}),
        served("b", {1: 1}, price={"output": 7}),
    )
    models = platform(registry, {("a", 1): Told(ModelError("x")), ("b", 1): Told("from b")}, clock)
    chunks = [chunk async for chunk in models.get("a").stream(ask())]
    assert [chunk.by for chunk in chunks] == ["b@1", "", "b@1"]
    assert chunks[-1].usage.cost_micros == 7


async def test_a_change_is_known_after_some_seconds_and_no_call_waits_for_it():
    clock = OwnTime()
    registry = LocalRegistry(served("a", {1: 1}))
    models = platform(registry, {("a", 1): Told("one"), ("a", 2): Told("two")}, clock)
    assert [await text_of(models.get("a")) for _ in range(5)] == ["one"] * 5
    assert registry.asked == 1
    registry.change(served("a", {2: 1}))
    assert await text_of(models.get("a")) == "one"
    await clock.sleep(FRESH_S)
    assert await text_of(models.get("a")) == "one"
    await eventually(lambda: registry.asked == 2, "the book to be read behind the call")
    assert await text_of(models.get("a")) == "two"


async def test_after_a_pause_the_first_call_goes_by_what_is_known_now():
    clock = OwnTime()
    registry = LocalRegistry(served("a", {1: 1}))
    models = platform(registry, {("a", 1): Told("one"), ("a", 2): Told("two")}, clock)
    assert await text_of(models.get("a")) == "one"
    registry.change(served("a", {2: 1}))
    await clock.sleep(OLD_S)
    assert await text_of(models.get("a")) == "two"


def test_a_version_that_cannot_be_read_is_left_out_and_others_answer():
    odd = version("a", 2)
    odd.settings["backend"] = "of a later Manta"
    split = Served("a", route("a", {1: 10, 2: 90}), (version("a", 1), odd))
    only = Served("b", route("b", {2: 1}), (odd,))
    found = read_book(Book(1, (split, only)))
    assert list(found) == ["a"]
    for number in range(20):
        hints = CallHints(run=RunId(f"run-{number}"))
        assert names(arms_for(found, "a", hints, lambda: 0.5)) == ["a@1"]


async def test_a_version_that_stands_in_tells_of_the_model_where_the_first_does_not_answer():
    class Silent(Told):
        async def info(self):
            raise ReplicaLost("it starts for ever")

    clock = OwnTime()
    registry = LocalRegistry(served("a", {1: 1}, fallbacks=("b",)), served("b", {1: 1}))
    models = platform(registry, {("a", 1): Silent(), ("b", 1): Told("from b", window=70)}, clock)
    info = await models.get("a").info()
    assert (info.id, info.context_window) == ("a", 70)


async def test_what_was_known_holds_while_no_coordinator_answers_and_nothing_is_known_before():
    clock = OwnTime()
    registry = LocalRegistry(served("a", {1: 1}))
    models = platform(registry, {("a", 1): Told("one")}, clock)
    registry.away = True
    with pytest.raises(Unavailable):
        await models.names()
    registry.away = False
    assert await models.names() == ("a",)
    registry.away = True
    for _ in range(3):
        await clock.sleep(FRESH_S)
        assert await text_of(models.get("")) == "one"


async def test_a_model_that_was_just_added_is_found_and_one_that_is_not_there_is_named():
    clock = OwnTime()
    registry = LocalRegistry(served("a", {1: 1}))
    models = platform(registry, {("a", 1): Told("one"), ("new", 1): Told("fresh")}, clock)
    assert await models.names() == ("a",)
    registry.change(served("a", {1: 1}), served("new", {1: 1}))
    assert await text_of(models.get("new")) == "fresh"
    with pytest.raises(NotFound, match="no model 'none'") as refused:
        await text_of(models.get("none"))
    assert refused.value.code == "model_not_found"


async def test_a_version_that_went_while_it_was_believed_in_is_answered_for_by_the_next():
    clock = OwnTime()
    registry = LocalRegistry(served("a", {1: 1}, retry=ONCE))
    gone = Told("one", ReplicaLost("its application is gone"))
    models = platform(registry, {("a", 1): gone, ("a", 2): Told("two")}, clock)
    assert await text_of(models.get("a")) == "one"
    registry.change(served("a", {2: 1}, retry=ONCE))
    assert await text_of(models.get("a")) == "two"
    registry.change(served("a", {1: 1}, retry=ONCE))
    await clock.sleep(FRESH_S)
    await models.arms("a", CallHints(), fresh=True)
    with pytest.raises(ReplicaLost):
        await text_of(models.get("a"))


async def test_a_breaker_outlives_other_models_changes_and_goes_with_its_version():
    clock = OwnTime()
    rules = {"retry": ONCE, "breaker": {"failures": 1, "pause_s": 1000}}
    registry = LocalRegistry(served("a", {1: 1}, **rules))
    models = platform(registry, {("a", 1): Told(ModelError("x"), "one"), ("a", 2): Told("two")}, clock)

    async def code():
        try:
            return await text_of(models.get("a"))
        except (ModelError, Unavailable) as error:
            return error.code

    assert [await code(), await code()] == ["model_error", "model_unavailable"]
    registry.change(served("a", {1: 1}, **rules), served("b", {1: 1}))
    await models.arms("a", CallHints(), fresh=True)
    assert await code() == "model_unavailable"
    registry.change(served("a", {2: 1}, **rules))
    await models.arms("a", CallHints(), fresh=True)
    assert await code() == "two"
    registry.change(served("a", {1: 1}, **rules))
    await models.arms("a", CallHints(), fresh=True)
    assert await code() == "one"


async def test_versions_beside_each_other_are_watched_and_one_alone_is_not():
    clock = OwnTime()
    registry = LocalRegistry(served("a", {1: 1, 2: 1}, retry=ONCE), served("b", {1: 1}))
    told = {("a", 1): Told("one"), ("a", 2): Told(ModelError("x")), ("b", 1): Told("alone")}
    models = platform(registry, told, clock)
    asked = [ask(run=RunId(f"run-{number}"), deadline=None) for number in range(40)]
    assert {await text_of(models.get("a"), request) for request in asked} == {"one"}
    await text_of(models.get("b"))
    await eventually(lambda: registry.told, "what was seen to be told")
    (totals,) = registry.told.values()
    by_version = {each.version: each for each in totals}
    assert {each.model for each in totals} == {"a"}
    assert by_version[1].calls + by_version[2].calls == 40
    # Another version stood in for it every time.
    assert by_version[2].failures == by_version[2].calls > 5
    assert by_version[1].failures == 0
    assert by_version[1].answered == by_version[1].calls > 5


def test_what_is_sent_to_agents_is_picklable():
    models = ServeModels(Registry(AnyCoordinator(("c",))), "a")
    assert pickle.loads(pickle.dumps(models)).resolve("") == "a"


async def test_a_kept_answer_is_given_again_until_another_version_is_chosen():
    clock = OwnTime()
    cache = {"exact": True}
    registry = LocalRegistry(served("a", {1: 1}, cache=cache))
    first = Told("one")
    models = platform(registry, {("a", 1): first, ("a", 2): Told("two")}, clock)
    assert [await text_of(models.get("a")) for _ in range(3)] == ["one"] * 3
    assert first.asked == 1
    registry.change(served("a", {2: 1}, cache=cache))
    await models.arms("a", CallHints(), fresh=True)
    assert await text_of(models.get("a")) == "two"


async def test_a_router_asks_the_model_of_a_questions_field():
    clock = OwnTime()
    registry = LocalRegistry(served("a", {1: 1}), served("b", {1: 1}))
    domains = {"greeting": {"model": "b", "examples": ["hi"]}}
    routers = {
        "auto": RouterSettings.model_validate({"otherwise": "a", "threshold": 0.9, "domains": domains})
    }
    models = platform(registry, {("a", 1): Told("from a"), ("b", 1): Told("from b")}, clock, routers)
    assert list(models.routers) == ["auto"]
    assert await text_of(models.get("auto")) == "from b"
    other = replace(ask(), messages=(ChatMessage("user", "What does a cube weigh?"),))
    assert await text_of(models.get("auto"), other) == "from a"


async def test_a_models_window_is_the_smallest_of_its_versions_and_nobody_is_started_for_it():
    clock = OwnTime()
    registry = LocalRegistry(
        served("a", {1: 1, 2: 1}),
        served("b", {1: 1}, context_window=4096),
        served("c", {1: 1}, replicas={"min": 0}),
    )
    told = {("a", 1): Told("one", window=300), ("a", 2): Told("two", window=200)}
    models = platform(registry, told, clock)
    assert await models.windows() == {"a": 200, "b": 4096}
