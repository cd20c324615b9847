"""A model is replaced, split and rolled back while streams go on: none fails, none is cut."""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import psutil
import pytest

from serve_app.supervisor import ray_folder
from tests.live.conftest import LivePlatform, eventually

MODEL = "rolled"
WORDS = 12
STREAMS = 6
ENDED = "data: [DONE]"


class Load:
    """Streams of one model without a pause between them, until it is left."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(STREAMS)]
        self.whole = 0
        self.broken: list[str] = []

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "words, please"}],
            "max_tokens": WORDS,
            "stream": True,
        }
        with httpx.Client(base_url=self._url, timeout=120) as http:
            asked = 0
            while not self._stop.is_set():
                asked += 1
                try:
                    told = self._one(http, {**body, "user": f"user-{number}-{asked}"})
                except httpx.HTTPError as error:
                    told = repr(error)
                if told:
                    self.broken.append(told)
                else:
                    self.whole += 1

    def _one(self, http: httpx.Client, body: dict[str, Any]) -> str:
        """What is wrong with the answer; nothing, where it is whole."""
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            text = response.read().decode()
        whole = response.status_code == 200 and text.rstrip().endswith(ENDED) and f"word{WORDS - 1} " in text
        return "" if whole else f"{response.status_code}: {text[-300:]}"

    def more(self, count: int, what: str) -> None:
        """Returns once so many more streams have ended well."""
        goal = self.whole + count
        eventually(lambda: self.broken or self.whole >= goal, f"{count} streams {what}")
        assert not self.broken, self.broken[:3]


@pytest.fixture(scope="module")
def http(platform: LivePlatform) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{platform.url}", timeout=60) as http:
        yield http


def change(http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    response = http.request(method, f"/models/{MODEL}{path}", json=body)
    assert response.is_success, response.text
    return response.json() if response.content else None


def weights(http: httpx.Client) -> dict[str, int]:
    found: dict[str, int] = change(http, "GET", "")["route"]["weights"]
    return found


def by_version(http: httpx.Client) -> Counter[int]:
    """How many answers the replicas of each version that has a share have given."""
    told: Sequence[dict[str, Any]] = change(http, "GET", "/replicas")
    return sum((Counter({each["version"]: each["served"]}) for each in told), Counter())


def replicas(platform: LivePlatform, version: int) -> set[int]:
    found: list[psutil.Process] = platform.processes(f"ray::ServeReplica:manta-model-{MODEL}-v{version}:")
    return {process.pid for process in found}


def test_replaced_split_scaled_and_rolled_back_under_load(platform: LivePlatform, http: httpx.Client):
    settings = change(http, "GET", "")["versions"][0]["settings"]
    with Load(platform.url) as load:
        load.more(10, "of the first version")
        made = change(http, "POST", "/versions", {"settings": {**settings, "step_s": [0.01, 0.0]}})
        assert made["version"] == 2

        change(http, "POST", "/split", {"weights": {"1": 90, "2": 10}, "sticky": "user"})
        eventually(lambda: weights(http) == {"1": 90, "2": 10}, "the split")
        eventually(lambda: by_version(http)[2] >= 5, "answers of the canary")
        load.more(60, "of both versions")
        counted = by_version(http)
        assert 0 < counted[2] < counted[1]

        change(http, "POST", "/promote", {"version": 2, "keep_s": 600})
        eventually(lambda: weights(http) == {"2": 100}, "the promotion")
        load.more(30, "of the second version")

        # It is still there, so this is at once.
        first = replicas(platform, 1)
        assert first
        change(http, "POST", "/rollback")
        eventually(lambda: weights(http) == {"1": 90, "2": 10}, "the way back")
        assert replicas(platform, 1) == first

        change(http, "POST", "/promote", {"version": 1, "keep_s": 0})
        eventually(lambda: weights(http) == {"1": 100}, "the way back to the first")
        eventually(lambda: not replicas(platform, 2), "the second version to go")
        load.more(20, "after it went")

        # More replicas come beside those that are there.
        change(http, "PATCH", "/replicas", {"min": 2, "max": 2})
        eventually(lambda: len(replicas(platform, 1)) == 2, "a second replica")
        assert first < replicas(platform, 1)
        load.more(20, "of two replicas")
    assert not load.broken, load.broken[:3]
    assert load.whole > 140


def test_a_version_that_cannot_start_leaves_the_earlier_one_at_work(http: httpx.Client):
    bad = {"backend": "torch", "source": "/nowhere/model.gguf", "replicas": {"num_cpus": 0.05}}
    made = change(http, "POST", "/versions", {"settings": bad})
    before = weights(http)
    change(http, "POST", "/promote", {"version": made["version"]})
    eventually(lambda: change(http, "GET", "")["pending"] is None, "the promotion to end")
    told = change(http, "GET", "")
    assert told["route"]["weights"] == before
    (version,) = [each for each in told["versions"] if each["version"] == made["version"]]
    assert version["state"] == "failed"
    assert "/nowhere/model.gguf" in version["message"]
    change(http, "DELETE", f"/versions/{made['version']}")


def test_a_model_comes_and_goes_while_the_platform_runs(platform: LivePlatform, http: httpx.Client):
    settings = {"backend": "sleep", "step_s": [0.01, 0.0], "replicas": {"num_cpus": 0.02}}
    made = http.post("/models/passing/versions", json={"settings": settings})
    assert made.is_success, made.text

    def names() -> set[str]:
        return {model["id"] for model in http.get("/v1/models").json()["data"]}

    eventually(lambda: "passing" in names(), "the new model")
    body = {"model": "passing", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"].split() == ["word0", "word1", "word2"]
    assert http.delete("/models/passing").is_success
    eventually(lambda: "passing" not in names(), "the model to be gone")
    eventually(
        lambda: not platform.processes("ray::ServeReplica:manta-model-passing-v1:"), "its replicas to be gone"
    )
    refused = http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "model_not_found"


def test_a_keeper_that_dies_is_replaced_and_goes_on(platform: LivePlatform, http: httpx.Client):
    (keeper,) = platform.processes("ray::ModelKeeper")
    settings = {"backend": "sleep", "step_s": [0.01, 0.0], "replicas": {"num_cpus": 0.02}}
    keeper.kill()
    assert http.post("/models/late/versions", json={"settings": settings}).is_success
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert http.post("/v1/chat/completions", json=body).is_success
    eventually(lambda: http.get("/models/late").json()["route"], "the route of the new model")
    assert http.post("/v1/chat/completions", json={**body, "model": "late"}).is_success
    assert http.delete("/models/late").is_success


def test_equal_requests_are_answered_by_what_was_kept(platform: LivePlatform, http: httpx.Client):
    def ask(text: str) -> Any:
        body = {"model": "kept", "messages": [{"role": "user", "content": text}], "temperature": 0}
        answer = http.post("/v1/chat/completions", json={**body, "max_tokens": 3})
        assert answer.is_success, answer.text
        return answer.json()

    def served() -> int:
        return sum(each["served"] for each in http.get("/models/kept/replicas").json())

    first = ask("one")
    again = ask("one")
    assert again["choices"] == first["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == again["usage"]["prompt_tokens"]
    assert served() == 1
    ask("two")
    assert served() == 2
    # The shared level: what it has, a gateway that begins anew has too. Gone, it is a miss.
    eventually(lambda: platform.processes("ray::CacheActor"), "the shared cache")
    for process in platform.processes("ray::CacheActor"):
        process.kill()
    assert ask("one")["choices"] == first["choices"]
    assert ask("three")["choices"]
    assert served() == 3
    looks = "ray_manta_cache_looks_total"
    eventually(lambda: scraped(platform, looks, result="hit") >= 2, "hits at the endpoint for Prometheus")
    assert scraped(platform, looks, result="miss") >= 3


def scraped(platform: LivePlatform, name: str, **labels: str) -> float:
    """The counter's sum over all that Ray lists for Prometheus."""
    listed = json.loads((ray_folder(platform.home) / "prom_metrics_service_discovery.json").read_text())
    addresses = [address for group in listed for address in group["targets"]]
    text = "".join(httpx.get(f"http://{address}/metrics", timeout=30).text for address in addresses)
    lines = [line for line in text.splitlines() if line.startswith(name + "{")]
    wanted = [line for line in lines if all(f'{key}="{value}"' in line for key, value in labels.items())]
    return sum(float(line.rsplit(" ", 1)[1]) for line in wanted)
