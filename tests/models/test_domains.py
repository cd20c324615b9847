"""Questions go to the model of their field, and those of none to the general one."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from manta.clock import ManualClock
from manta.config import RouterSettings, Settings, load_settings
from manta.errors import InvalidConfig, ModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, Usage
from manta.usage import Price
from serve_app.models.domains import model as domains
from serve_app.models.domains.choice import (
    HYSTERESIS,
    OTHERWISE,
    choose_domain,
    common_info,
    question_of,
)
from serve_app.models.domains.model import DomainModel
from tests.models.cache_support import NOT_THERE, Broken, Counting, MadeUp, question, real_embedder, text_of
from tests.models.domain_questions import EXAMPLES, QUESTIONS
from tests.waiting import eventually


def rules(threshold: float = 0.5, **examples: list[str]) -> RouterSettings:
    """A domain for each keyword, whose model has the same name."""
    named = {name: {"model": name, "examples": texts} for name, texts in examples.items()}
    return RouterSettings.model_validate({"otherwise": "general", "threshold": threshold, "domains": named})


class Names(Counting):
    """Answers with its name."""

    def __init__(self, name: str, **info: Any) -> None:
        super().__init__([ChatChunk(name, (), "stop", Usage(1, 1), by=f"{name}@1")])
        self._told = info.get("told") or ModelInfo(name, info.get("window", 100), info.get("abilities", ()))

    async def info(self) -> ModelInfo:
        return self._told


class Models:
    def __init__(self, *names: str, **made: Any) -> None:
        self.made = {**{name: Names(name) for name in names}, **made}

    def __call__(self, name: str) -> Any:
        return self.made[name]


MED, LAW = "a pill", "a court"
VECTORS = {MED: (1, 0, 0), LAW: (0, 1, 0), "pills": (0.9, 0.1, 0), "sue": (0.1, 0.9, 0), "sea": (0.1, 0.1, 1)}
MIDDLE = {"mostly pills": (0.72, 0.69, 0), "mostly sue": (0.69, 0.72, 0), "only sue": (0.5, 0.87, 0)}


def router(embedder: Any = None, **options: Any) -> DomainModel:
    embedder = embedder or MadeUp({**VECTORS, **MIDDLE})
    models = options.pop("models", Models("general", "med", "law"))
    return DomainModel("auto", rules(med=[MED], law=[LAW]), models, embedder, **options)


async def test_a_question_goes_to_its_domain_and_others_go_elsewhere():
    models, embedder = Models("general", "med", "law"), MadeUp(VECTORS)
    model = router(embedder, models=models)
    assert [await text_of(model, question(text)) for text in ("pills", "sue", "sea")] == [
        "med",
        "law",
        "general",
    ]
    assert models.made["med"].asked[0].model == "med", "who is asked is named, whatever was called for"
    assert embedder.asked == [MED, LAW, "pills", "sue", "sea"], "examples are embedded once"
    assert model.stats() == {"chosen": {"med": 1, "law": 1, "": 1}, "embedder_failures": 0}


async def test_the_last_thing_the_user_said_decides():
    said = (ChatMessage("user", "pills"), ChatMessage("assistant", "pills"), ChatMessage("user", "sue"))
    assert await text_of(router(), ChatRequest((*said, ChatMessage("assistant", "pills")))) == "law"
    assert await text_of(router(), ChatRequest((), prompt="pills")) == "med"


@pytest.mark.parametrize("request_", [ChatRequest(()), ChatRequest((), prompt_ids=(1,)), question(" \n")])
async def test_where_nothing_is_said_the_general_model_answers(request_: ChatRequest):
    embedder = MadeUp(VECTORS)
    model = router(embedder)
    assert await text_of(model, request_) == "general"
    assert (embedder.asked, model.stats()["embedder_failures"]) == ([], 0)


async def test_a_conversation_stays_while_the_margin_is_small():
    model = router()
    talk = ["pills", "mostly sue", "only sue", "mostly pills", "sea"]
    assert [await text_of(model, question(text, run="r")) for text in talk] == [
        "med",
        "med",
        "law",
        "law",
        "general",
    ]
    assert await text_of(model, question("mostly sue", run="s")) == "law", "another run has its own"
    assert await text_of(model, question("mostly pills")) == "med", "without a run nothing is remembered"


async def test_the_memory_of_conversations_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(domains, "RUNS_KEPT", 2)
    model = router()
    for run in ("a", "b", "a", "c"):
        await text_of(model, question("pills", run=run))
    assert list(model._choices) == ["a", "c"]


@pytest.mark.parametrize("how", [NOT_THERE, "silent", [[0.0] * 3] * 2, [[1.0, 0.0, 0.0]]], ids=str)
async def test_without_an_embedder_the_general_model_answers(monkeypatch: pytest.MonkeyPatch, how: Any):
    monkeypatch.setattr(domains, "EXAMPLES_S", 0.01)
    clock, broken = ManualClock(), Broken(how)
    model = router(broken, clock=clock)
    for _ in range(3):
        assert await text_of(model, question("pills")) == "general"
    assert (broken.asked, model.stats()["embedder_failures"]) == (1, 3), "it is left in peace for a while"
    await clock.advance(domains.AGAIN_S)
    model._embedder = MadeUp(VECTORS)
    assert await text_of(model, question("pills")) == "med"


async def test_an_embedder_that_fails_later_loses_only_that_question(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(domains, "EMBED_S", 0.01)
    model = router()
    assert await text_of(model, question("pills")) == "med"
    model._embedder = Broken("silent")
    assert await text_of(model, question("pills")) == "general"
    model._embedder = MadeUp(VECTORS)
    assert await text_of(model, question("pills")) == "med"


async def test_those_who_ask_first_wait_for_the_examples_together():
    class Slow(MadeUp):
        async def embed(self, texts: Any) -> list[list[float]]:
            vectors = await super().embed(texts)
            await go.wait()
            return vectors

    go, embedder = asyncio.Event(), Slow(VECTORS)
    model = router(embedder)
    calls = [asyncio.create_task(text_of(model, question("pills"))) for _ in range(5)]
    await eventually(lambda: embedder.asked, "the examples")
    calls[0].cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    assert await asyncio.gather(*calls[1:]) == ["med"] * 4, "one that leaves takes nothing from the others"
    assert embedder.asked.count(MED) == 1


async def test_an_error_of_the_model_is_the_callers_to_see():
    broken = Counting([ChatChunk("half"), ModelError("gone")])
    model = router(models=Models("general", "law", med=broken))
    with pytest.raises(ModelError, match="gone"):
        await text_of(model, question("pills"))


async def test_it_can_do_what_all_can():
    general = ModelInfo("general", 900, ("tools", "json"), Price(1, 5))
    med = ModelInfo("med", 300, ("json",), Price(2, 1, cached_input=0.5))
    model = router(models=Models("law", general=Names("g", told=general), med=Names("m", told=med)))
    law = await model._model("law").info()
    assert (law.context_window, law.abilities) == (100, ())
    assert await model.info() == ModelInfo("general", 100, (), Price(2, 5, 1))
    assert common_info(general, [med]).abilities == ("json",)
    assert common_info(general, []) == ModelInfo("general", 900, ("tools", "json"), Price(1, 5, 1))
    assert await model.count_tokens((1, 2)) == 2


async def test_a_domains_model_that_is_gone_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch):
    class Gone(Names):
        async def info(self) -> ModelInfo:
            raise NOT_THERE

    class Cold(Names):
        async def info(self) -> ModelInfo:
            infos.append(self)
            return await asyncio.Event().wait()  # type: ignore[return-value]

    monkeypatch.setattr(domains, "INFO_S", 0.01)
    clock, infos = ManualClock(), list[Names]()
    model = router(models=Models("general", law=Cold("law"), med=Gone("med")), clock=clock)
    for _ in range(3):
        assert (await model.info()).id == "general"
    assert len(infos) == 1, "one that has to be started is not waited for at each question"
    await clock.advance(domains.AGAIN_S)
    await model.info()
    assert len(infos) == 2
    with pytest.raises(type(NOT_THERE)):
        await router(models=Models("med", "law", general=Gone("general"))).info()


def unit(*numbers: float) -> Any:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


def test_the_three_nearest_examples_speak_for_a_domain():
    here = unit(1, 0)
    one_hit = np.stack([unit(1, 0), unit(0, 1), unit(0, 1), unit(0, 1)])
    many = np.stack([unit(1, 1), unit(1, 1), unit(1, 1), unit(0, 1)])
    assert choose_domain(here, {"one": one_hit, "many": many}, 0.2) == "many"
    assert choose_domain(here, {"one": one_hit}, 0.34) == OTHERWISE
    assert choose_domain(here, {"one": one_hit}, 0.33) == "one"
    assert choose_domain(here, {"few": np.stack([unit(1, 0)])}, 1.0) == "few", (
        "as near as the threshold is near"
    )


ANGLES = st.floats(0, 6.2)


@given(ANGLES, st.lists(st.lists(ANGLES, min_size=1, max_size=5), min_size=1, max_size=4), st.floats(0, 1))
def test_any_choice(angle: float, domains_: list[list[float]], threshold: float):
    def vectors(angles: list[float]) -> Any:
        return np.stack([unit(np.cos(a), np.sin(a)) for a in angles])

    examples = {str(number): vectors(angles) for number, angles in enumerate(domains_)}
    vector = vectors([angle])[0]
    near = {name: float(np.sort(rows @ vector)[-3:].mean()) for name, rows in examples.items()}
    near[OTHERWISE] = threshold
    chosen = choose_domain(vector, examples, threshold)
    assert near[chosen] == max(near.values())
    for before in (*examples, OTHERWISE, "a domain that was removed"):
        after = choose_domain(vector, examples, threshold, before)
        if after != chosen:
            assert after == before
            assert near[before] >= near[chosen] - HYSTERESIS
        elif before in near and before != chosen:
            assert near[before] < near[chosen] - HYSTERESIS
        assert choose_domain(vector, examples, threshold, after) == after, "what is chosen stays chosen"


async def test_the_real_embedder_tells_fields_apart_at_the_default_threshold():
    settings = RouterSettings.model_validate(
        {
            "otherwise": "general",
            "domains": {name: {"model": name, "examples": texts} for name, texts in EXAMPLES.items()},
        }
    )
    texts = [text for group in (*EXAMPLES.values(), *QUESTIONS.values()) for text in group]
    model = DomainModel("auto", settings, Models("general", *EXAMPLES), real_embedder(texts))
    for field, asked in QUESTIONS.items():
        for text in asked:
            assert await text_of(model, question(text)) == (field or "general"), text


def test_question_of_odd_requests():
    assert question_of(ChatRequest((ChatMessage("system", "x"),))) == ""
    assert question_of(ChatRequest((ChatMessage("system", "x"),), prompt=" p ")) == "p"


GOOD = {"otherwise": "general", "domains": {"law": {"model": "special", "examples": ["x"]}}}


def test_routers_are_read_and_may_be_an_agents_model():
    settings = Settings.model_validate(
        {
            "models": {"general": {}, "special": {}},
            "routers": {"auto": GOOD},
            "agents": {"writer": {"model": "auto"}},
            "default_model": "auto",
        }
    )
    assert settings.routers["auto"].threshold == 0.2
    assert settings.routers["auto"].models == ("general", "special")


@pytest.mark.parametrize(
    ("routers", "cause"),
    [
        ({"general": GOOD}, "routers.general: a model has this name"),
        ({"auto": {**GOOD, "otherwise": "none"}}, "there is no model 'none'"),
        (
            {"auto": {**GOOD, "domains": {"law": {"model": "no", "examples": ["x"]}}}},
            "there is no model 'no'",
        ),
        ({"auto": GOOD, "b": {**GOOD, "otherwise": "auto"}}, "names the router 'auto'"),
        ({"auto": {**GOOD, "otherwise": "auto"}}, "names the router 'auto'"),
        ({"auto": {**GOOD, "domains": {}}}, "domains"),
        ({"auto": {**GOOD, "domains": {"law": {"model": "special", "examples": []}}}}, "examples"),
        ({"auto": {**GOOD, "domains": {"law": {"model": "special", "examples": [" "]}}}}, "examples"),
        ({"auto": {**GOOD, "threshold": 1.1}}, "threshold"),
        ({"auto": {"otherwise": "general"}}, "domains"),
    ],
)
def test_routers_that_cannot_be_are_refused(tmp_path: Path, routers: dict, cause: str):
    file = tmp_path / "manta.yaml"
    file.write_text(yaml.safe_dump({"models": {"general": {}, "special": {}}, "routers": routers}))
    with pytest.raises(InvalidConfig, match=cause):
        load_settings(file, {})
