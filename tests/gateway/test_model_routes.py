"""Models as their operators see and change them, by HTTP: versions, routes, replicas, and what is refused."""

from typing import Any

import pytest

from manta.errors import CoordinatorUnavailable
from manta.model_settings import ModelSettings
from tests.gateway.platform import Local, LocalModels
from tests.waiting import eventually

SLEEP: dict[str, Any] = {"backend": "sleep"}
FAST: dict[str, Any] = {**SLEEP, "step_s": [0.001, 0]}


async def declare(local: Local, **models: dict[str, Any]) -> None:
    whole = {
        name: ModelSettings.model_validate(said).model_dump(mode="json") for name, said in models.items()
    }
    await local.service.journal.models.declare(whole)


@pytest.fixture
async def served(local: Local) -> Local:
    """With the default model `sleeper` and `other` on file."""
    await declare(local, sleeper=SLEEP, other={**SLEEP, "fallbacks": ["sleeper"]})
    return local


async def add(local: Local, name: str, settings: dict[str, Any], status: int = 200, **more: Any) -> Any:
    body = {"settings": settings, **more}
    return await local.json("POST", f"/models/{name}/versions", status, json=body)


async def model(local: Local, name: str) -> Any:
    return await local.json("GET", f"/models/{name}")


async def until_active(local: Local, name: str, revision: int) -> Any:
    async def look() -> bool:
        route = (await model(local, name))["route"]
        return bool(route and route["revision"] == revision)

    await eventually(look, f"route {revision} of {name}")
    return await model(local, name)


async def test_models_are_listed_with_versions_states_and_routes(served: Local):
    other, sleeper = await served.json("GET", "/models")
    assert (other["name"], other["default"], sleeper["name"], sleeper["default"]) == (
        "other",
        False,
        "sleeper",
        True,
    )
    (version,) = sleeper["versions"]
    assert (version["version"], version["share"], version["source"]) == (1, 1.0, "file")
    assert version["settings"]["backend"] == "sleep"
    assert (version["state"], (await model(served, "sleeper"))["versions"][0]["state"]) == (
        "deploying",
        "running",
    )
    route = sleeper["route"]
    assert (route["weights"], route["state"], route["why"]) == ({"1": 100}, "active", "declared")
    assert sleeper["history"] == [route]


async def test_a_version_is_added_promoted_and_rolled_back(served: Local):
    added = await add(served, "sleeper", FAST, note="faster")
    assert (added["version"], added["share"], added["note"]) == (2, 0.0, "faster")
    assert added["settings"]["step_s"] == [0.001, 0]
    assert (await model(served, "sleeper"))["route"]["weights"] == {"1": 100}

    promoted = await served.json("POST", "/models/sleeper/promote", json={})
    assert (promoted["state"], promoted["weights"], promoted["created_by"]) == (
        "pending",
        {"2": 100},
        "local",
    )
    after = await until_active(served, "sleeper", promoted["revision"])
    assert [version["share"] for version in after["versions"]] == [0.0, 1.0]
    assert after["versions"][0]["down_at"] is not None
    assert await served.json("POST", "/models/sleeper/promote", json={"version": 2}) == after["route"]

    back = await served.json("POST", "/models/sleeper/rollback")
    assert (back["weights"], back["why"]) == ({"1": 100}, "rolled_back")
    await until_active(served, "sleeper", back["revision"])


async def test_a_new_model_answers_once_it_runs_and_one_that_fails_does_not(served: Local):
    await add(served, "fresh", FAST)
    assert (await model(served, "fresh"))["pending"]["weights"] == {"1": 100}
    await until_active(served, "fresh", 1)

    served.keeper._target.broken.add("manta-model-broken-v1")
    await add(served, "broken", FAST)

    async def failed() -> bool:
        return bool((await model(served, "broken"))["history"][0]["state"] == "failed")

    await eventually(failed, "the failed route")
    shown = await model(served, "broken")
    assert (shown["route"], shown["pending"]) == (None, None)
    assert shown["history"][0]["error"] == "there are no weights"
    assert (shown["versions"][0]["state"], shown["versions"][0]["message"]) == (
        "failed",
        "there are no weights",
    )


async def test_a_split_and_its_comparison(served: Local):
    await add(served, "sleeper", FAST)
    body = {"weights": {"1": 90, "2": 10}, "sticky": "user", "keep_s": 5}
    route = await served.json("POST", "/models/sleeper/split", json=body)
    shown = await until_active(served, "sleeper", route["revision"])
    assert (shown["route"]["weights"], shown["route"]["sticky"]) == ({"1": 90, "2": 10}, "user")
    assert [version["share"] for version in shown["versions"]] == [0.9, 0.1]
    compared = await served.json("GET", "/models/sleeper/comparison")
    assert compared["revision"] == route["revision"]
    assert await served.json("GET", f"/models/sleeper/comparison?revision={route['revision']}") == compared
    in_use = await served.json("DELETE", "/models/sleeper/versions/2", 409)
    assert in_use["code"] == "version_in_use"


@pytest.mark.parametrize(
    "body",
    [
        {"weights": {}},
        {"weights": {"0": 1}},
        {"weights": {"one": 1}},
        {"weights": {"1": 0}},
        {"weights": {"1": 1.5}},
        {"weights": {"1": 1}, "sticky": "weather"},
        {"weights": {"1": 1}, "keep_s": -1},
        {"weights": {str(n): 1 for n in range(1, 18)}},
        {"weights": {"1": 1}, "colour": "red"},
    ],
)
async def test_splits_that_cannot_be(served: Local, body: dict[str, Any]):
    refused = await served.json("POST", "/models/sleeper/split", 422, json=body)
    assert refused["code"] == "invalid_input"


async def test_what_is_not_there_is_404(served: Local):
    for method, path, body in (
        ("GET", "/models/none", None),
        ("GET", "/models/No%00ne", None),
        ("GET", "/models/none/comparison", None),
        ("POST", "/models/none/promote", {}),
        ("POST", "/models/none/rollback", None),
        ("PATCH", "/models/none/replicas", {"max": 2}),
        ("DELETE", "/models/none", None),
        ("DELETE", "/models/none/versions/1", None),
    ):
        request = {} if body is None else {"json": body}
        assert (await served.json(method, path, 404, **request))["code"] == "model_not_found"
    for method, path, body in (
        ("POST", "/models/sleeper/promote", {"version": 9}),
        ("POST", "/models/sleeper/split", {"weights": {"1": 1, "9": 1}}),
        ("PATCH", "/models/sleeper/replicas", {"max": 2, "version": 9}),
        ("DELETE", "/models/sleeper/versions/9", None),
    ):
        request = {} if body is None else {"json": body}
        assert (await served.json(method, path, 404, **request))["code"] == "version_not_found"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"backend": "magic"}, "settings.backend"),
        ({"replicas": {"max": 0}}, "settings.replicas.max"),
        ({"replicas": {"min": 3}}, "settings.replicas"),
        ({"max_batch": "16"}, "settings.max_batch"),
        ({"timeout_s": 10**400}, "settings.timeout_s"),
        ({"step_s": [0, 1 << 31]}, "settings.step_s"),
        ({"launch": {"env": {"A": 1}}}, "settings.launch.env.A"),
        ({"backend": "server"}, "settings: "),
        ({"backend": "remote"}, "base_url"),
        ({"backend": "remote", "base_url": "http://h/v1?key=x"}, "base_url"),
        ({"colour": "red"}, "settings.colour"),
        ({"fallbacks": ["none"]}, "models.sleeper.fallbacks"),
        ({"fallbacks": ["sleeper"]}, "models.sleeper.fallbacks"),
        ({"fallbacks": ["other"]}, "models.other.fallbacks leads back"),
    ],
)
async def test_settings_that_cannot_be_name_their_field(served: Local, settings: dict[str, Any], field: str):
    refused = await add(served, "sleeper", settings, 422)
    assert (refused["code"], field in refused["message"]) == ("invalid_input", True), refused


async def test_names_that_no_model_has(served: Local, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LocalModels, "routers", ("auto",))
    for name in ("all-minilm-l6-v2", "UPPER", "1st", "a" * 64, "auto"):
        assert (await add(served, name, SLEEP, 422))["code"] == "invalid_input"


async def test_the_same_settings_are_no_new_version_and_a_repeated_request_is_one(served: Local):
    assert (await add(served, "sleeper", SLEEP, 409))["code"] == "model_version_exists"
    headers = {"Idempotency-Key": "k1"}
    path, body = "/models/sleeper/versions", {"settings": FAST}
    first = await served.json("POST", path, json=body, headers=headers)
    again = await served.json("POST", path, json=body, headers=headers)
    assert (first["version"], again["version"]) == (2, 2)
    for other in (
        {"settings": {**FAST, "max_batch": 2}},
        {"settings": {**FAST, "replicas": {"max": 3}}},
        {"settings": FAST, "note": "another"},
    ):
        refused = await served.json("POST", path, 422, json=other, headers=headers)
        assert refused["code"] == "idempotency_conflict"
    await served.json("PATCH", "/models/sleeper/replicas", json={"max": 4, "version": 2})
    assert (await served.json("POST", path, json=body, headers=headers))["version"] == 2
    await served.json("DELETE", "/models/sleeper/versions/2", 204)
    assert (await served.json("POST", path, 409, json=body, headers=headers))["code"] == "version_removed"


async def test_an_answer_that_is_lost_on_its_way_makes_no_second_version(served: Local):
    ask = served.coordinator.call

    async def lossy(method: str, *arguments: Any, **options: Any) -> Any:
        if arguments[:2] == ("models", "add"):
            # The coordinator died after it had written, and whoever calls it calls again.
            await ask(method, *arguments, **options)
        return await ask(method, *arguments, **options)

    served.coordinator.call = lossy  # type: ignore[method-assign]
    assert (await add(served, "sleeper", FAST))["version"] == 2
    assert len((await model(served, "sleeper"))["versions"]) == 2


async def test_replicas_are_changed_in_place(served: Local):
    scaled = await served.json("PATCH", "/models/sleeper/replicas", json={"max": 4, "target_ongoing": 2})
    replicas = scaled["settings"]["replicas"]
    assert (scaled["version"], replicas["min"], replicas["max"], replicas["target_ongoing"]) == (1, 1, 4, 2)
    for body in ({}, {"version": 1}, {"min": 9}, {"max": "2"}, {"speed": 1}, {"max": None}, {"max": 1 << 40}):
        refused = await served.json("PATCH", "/models/sleeper/replicas", 422, json=body)
        assert refused["code"] == "invalid_input"
    await add(served, "sleeper", FAST)
    route = await served.json("POST", "/models/sleeper/split", json={"weights": {"1": 1, "2": 1}})
    await until_active(served, "sleeper", route["revision"])
    unclear = await served.json("PATCH", "/models/sleeper/replicas", 409, json={"max": 2})
    assert unclear["code"] == "ambiguous"
    scaled = await served.json("PATCH", "/models/sleeper/replicas", json={"max": 2, "version": 2})
    assert (scaled["version"], scaled["share"], scaled["settings"]["replicas"]["max"]) == (2, 0.5, 2)


async def test_what_others_need_is_not_removed(served: Local):
    await declare(served, sleeper=SLEEP, other={**SLEEP, "fallbacks": ["spare"]}, spare=SLEEP)
    for name in ("sleeper", "spare"):
        assert (await served.json("DELETE", f"/models/{name}", 409))["code"] == "model_in_use"
    await served.json("DELETE", "/models/other", 204)
    await served.json("DELETE", "/models/spare", 204)
    assert [each["name"] for each in await served.json("GET", "/models")] == ["sleeper"]
    await add(served, "sleeper", FAST)
    await served.json("DELETE", "/models/sleeper/versions/2", 204)
    assert [each["version"] for each in (await model(served, "sleeper"))["versions"]] == [1]


async def test_openai_clients_are_told_the_window(served: Local):
    listed = {each["id"]: each for each in (await served.json("GET", "/v1/models"))["data"]}
    (one,) = [name for name in listed if name not in ("all-minilm-l6-v2",) and "/" not in name][:1]
    assert listed[one]["max_model_len"] > 0
    assert (await served.json("GET", f"/v1/models/{one}")) == listed[one]
    assert "max_model_len" not in listed["all-minilm-l6-v2"]


async def test_without_the_keeper_states_are_unknown(served: Local):
    served.keeper.away.add("states")
    (version,) = (await model(served, "sleeper"))["versions"]
    assert (version["state"], version["replicas"]) == ("unknown", 0)
    assert (await add(served, "sleeper", FAST))["state"] == "unknown"


async def test_without_a_coordinator_it_is_503(served: Local):
    served.coordinator.away.add("library")
    served.coordinator.trouble = CoordinatorUnavailable("it restarts")
    assert (await served.json("GET", "/models", 503))["code"] == "coordinator_unavailable"
