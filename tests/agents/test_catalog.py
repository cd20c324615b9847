"""Agents are found by name or import path and built from their settings."""

from typing import Any

import pytest

from agents.base import AgentSetup
from agents.catalog import BUILT_IN, choose_strategy, load_agent
from agents.context import LocalCallLog
from agents.scripted import ScriptedModel
from manta.config import AgentSettings, SandboxSettings, SearchSettings, Settings
from manta.errors import InvalidConfig
from manta.messages import ModelInfo, Sentence
from manta.protocols import AgentContext
from tests.agents.loop_support import Attempt
from tools.toolbox import tool


class Keeping:
    """An agent that shows how it was built."""

    def __init__(self, setup: AgentSetup) -> None:
        self.setup = setup

    async def run(self, context: AgentContext) -> Any:
        return context.task.agent


class Bare:
    async def run(self, context: AgentContext) -> Any:
        return None


class NotAnAgent:
    def __init__(self, setup: AgentSetup) -> None:
        pass


async def shout(context: AgentContext) -> Any:
    return {"said": Sentence("x", ("p1",))}


ready = Bare()


@tool
def nothing() -> None:
    """Does nothing."""


def use(name: str, **fields: Any) -> AgentSettings:
    return AgentSettings(use=f"{__name__}:{name}", **fields)


def test_a_class_gets_its_setup():
    settings = use("Keeping", strategy="agent", tools=("nothing",), options={"depth": 2})
    agent = load_agent(
        "mine",
        settings,
        tools={"nothing": f"{__name__}:nothing", "other": "no.such:thing"},
        search=SearchSettings(engine="searxng", base_url="http://s"),
        sandbox=SandboxSettings(wall_s=5),
    )
    assert isinstance(agent, Keeping)
    setup = agent.setup
    assert (setup.name, setup.strategy, setup.options, list(setup.tools)) == (
        "mine",
        "agent",
        {"depth": 2},
        ["nothing"],
    )
    assert (setup.search.engine, setup.sandbox.wall_s) == ("searxng", 5)


async def test_an_async_function_is_an_agent(tmp_path):
    agent = load_agent("shout", use("shout"))
    context = Attempt(ScriptedModel([]), LocalCallLog(), tmp_path).context
    assert await agent.run(context) == {"said": {"text": "x", "citations": ["p1"], "origin": "model"}}


def test_a_ready_object_is_an_agent():
    assert load_agent("ready", use("ready")) is ready


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        (AgentSettings(), "there is no agent 'mine'"),
        (use("absent"), "cannot import the agent"),
        (AgentSettings(use="no.such:thing"), "cannot import the agent"),
        (use("NotAnAgent"), "is not an agent"),
        (use("Bare"), "does not take an AgentSetup"),
        (use("use"), "is not an agent"),
        (use("Keeping", tools=("absent",)), "no tool 'absent'"),
    ],
)
def test_what_cannot_be_an_agent_is_refused(settings, cause):
    with pytest.raises(InvalidConfig) as caught:
        load_agent("mine", settings)
    assert cause in str(caught.value)


def test_every_built_in_agent_of_the_settings_is_in_the_catalog():
    assert set(Settings().agents) == set(BUILT_IN)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_agent_loads(name):
    assert load_agent(name, AgentSettings()) is not None


@pytest.mark.parametrize(
    ("strategy", "abilities", "chosen"),
    [
        ("auto", (), "pipeline"),
        ("auto", ("json",), "pipeline"),
        ("auto", ("tools",), "agent"),
        ("pipeline", ("tools",), "pipeline"),
        ("agent", (), "agent"),
    ],
)
def test_the_models_abilities_choose_the_strategy(strategy, abilities, chosen):
    assert choose_strategy(strategy, ModelInfo("m", 100, abilities)) == chosen
