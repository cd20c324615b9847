"""What the keeper does next, over what is wanted and what is there."""

import dataclasses

import pytest

from coordinator.store.model_records import KeeperPlan, ModelVersion
from serve_app.models.keeping import (
    LINGER_S,
    Activate,
    AppState,
    Delete,
    Deploy,
    Fail,
    Retire,
    decide,
    digest,
)
from serve_app.models.names import model_app, version_behind
from tests.models.registry_support import route, version

ONE, TWO = version("a", 1), version("a", 2)
RUNNING = AppState("running", replicas=1)


def plan(*up: ModelVersion, pending=()):
    return KeeperPlan(1, tuple(up), tuple(pending))


def deployed(*versions: ModelVersion):
    return {model_app(v.model, v.version): digest(v) for v in versions}


def test_an_applications_name_tells_its_version_even_of_a_model_that_is_named_like_one():
    assert version_behind(model_app("a-v2", 31)) == ("a-v2", 31)
    assert version_behind("embedder") is None


def test_what_is_wanted_and_not_there_is_deployed_once():
    assert decide(plan(ONE), {}, {}, 0) == [Deploy(ONE)]
    assert decide(plan(ONE), {"manta-model-a-v1": AppState("deploying")}, deployed(ONE), 0) == []
    assert decide(plan(ONE), {"manta-model-a-v1": RUNNING}, deployed(ONE), 0) == []


def test_a_keeper_that_began_anew_deploys_again_what_it_finds():
    """It does not know with what replicas; Serve changes nothing where nothing differs."""
    assert decide(plan(ONE), {"manta-model-a-v1": RUNNING}, {}, 0) == [Deploy(ONE)]


def test_other_replicas_are_deployed_in_place():
    settings = {**ONE.settings, "replicas": {**ONE.settings["replicas"], "max": 5}}
    scaled = dataclasses.replace(ONE, settings=settings)
    assert decide(plan(scaled), {"manta-model-a-v1": RUNNING}, deployed(ONE), 0) == [Deploy(scaled)]


def test_one_that_is_going_is_waited_for():
    assert decide(plan(ONE), {"manta-model-a-v1": AppState("going")}, {}, 0) == []


def test_a_route_is_activated_when_all_its_versions_run():
    half = route("a", {1: 1, 2: 1}, revision=5, state="pending")
    both = deployed(ONE, TWO)
    starting = {"manta-model-a-v1": RUNNING, "manta-model-a-v2": AppState("deploying")}
    assert decide(plan(ONE, TWO, pending=[half]), starting, both, 0) == []
    running = {"manta-model-a-v1": RUNNING, "manta-model-a-v2": RUNNING}
    assert decide(plan(ONE, TWO, pending=[half]), running, both, 0) == [Activate("a", 5)]


def test_a_route_fails_with_its_version_and_says_why():
    wanted = route("a", {2: 1}, revision=5, state="pending")
    apps = {"manta-model-a-v1": RUNNING, "manta-model-a-v2": AppState("failed", "no such file")}
    assert decide(plan(ONE, TWO, pending=[wanted]), apps, deployed(ONE, TWO), 0) == [
        Fail("a", 5, "version 2: no such file")
    ]


def test_what_failed_before_it_was_asked_for_once_more_is_tried_once_more():
    wanted = dataclasses.replace(route("a", {2: 1}, revision=5, state="pending"), created_at=50.0)
    apps = {"manta-model-a-v1": RUNNING, "manta-model-a-v2": AppState("failed", "no file", since=40.0)}
    assert decide(plan(ONE, TWO, pending=[wanted]), apps, deployed(ONE, TWO), 60) == [
        Delete("manta-model-a-v2")
    ]
    apps = {"manta-model-a-v1": RUNNING}
    assert decide(plan(ONE, TWO, pending=[wanted]), apps, deployed(ONE), 61) == [Deploy(TWO)]
    apps = {"manta-model-a-v1": RUNNING, "manta-model-a-v2": AppState("failed", "no file", since=62.0)}
    assert decide(plan(ONE, TWO, pending=[wanted]), apps, deployed(ONE, TWO), 63) == [
        Fail("a", 5, "version 2: no file")
    ]


@pytest.mark.parametrize(("now", "actions"), [(9.0 + LINGER_S, []), (10.0 + LINGER_S, [Retire("a", 1)])])
def test_what_nobody_asks_is_retired_when_its_time_is_over(now: float, actions: list):
    over = dataclasses.replace(ONE, down_at=10.0)
    apps = {"manta-model-a-v1": RUNNING, "manta-model-a-v2": RUNNING}
    assert decide(plan(over, TWO), apps, deployed(ONE, TWO), now) == actions


def test_what_a_pending_route_needs_is_not_retired():
    over = dataclasses.replace(ONE, down_at=10.0)
    back = route("a", {1: 1}, revision=6, state="pending")
    apps = {"manta-model-a-v1": AppState("deploying"), "manta-model-a-v2": RUNNING}
    assert decide(plan(over, TWO, pending=[back]), apps, deployed(ONE, TWO), 11.0 + LINGER_S) == []


def test_what_is_not_wanted_is_deleted_and_others_applications_are_left():
    apps = {
        "manta-model-a-v1": RUNNING,
        "manta-model-b-v1": AppState("going"),
        "manta": RUNNING,
        "model-x-v1": RUNNING,
    }
    assert decide(plan(), apps, {}, 0) == [Delete("manta-model-a-v1")]
