"""The planner: the question's clauses first, the model's proposals only where they fit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.base import AgentSetup
from agents.context import LocalArtifacts, LocalCallLog, TaskContext
from agents.planner import Planner, clauses
from agents.scripted import ScriptedModel, ScriptedStep
from agents.sentences import content_stems
from manta.errors import InvalidInput
from manta.ids import RunId, StepKey
from manta.messages import CallScope, Passage, Task

DEMO = (
    "How does Ray Serve decide on the number of replicas, and what does serving 50 requests/s on each GPU "
    "option cost per hour?"
)


class NoDocuments:
    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        raise AssertionError("the planner searches nothing")


async def plan(tmp_path: Path, model: ScriptedModel, **given: object) -> list[str]:
    task = Task(CallScope(RunId("r"), StepKey("plan")), "planner", dict(given))
    context = TaskContext(
        task,
        model=model,
        documents=NoDocuments(),
        artifacts=LocalArtifacts(tmp_path),
        call_log=LocalCallLog(),
        workdir=tmp_path,
    )
    output = await Planner(AgentSetup("planner")).run(context)
    return list(output["questions"])


async def test_the_clauses_come_first_and_good_proposals_after_them(tmp_path: Path) -> None:
    answer = (
        "1. How does Ray Serve decide on the number of replicas?\n"
        "2. Which metrics make Ray Serve add replicas?\n"
        "3. Why is the sky blue?\n"
        "The replicas are many.\n"
        "4. What do 70 replicas cost?"
    )
    model = ScriptedModel([ScriptedStep("replicas", answer)])
    questions = await plan(tmp_path, model, question=DEMO, max_questions=5)
    assert questions == [
        "How does Ray Serve decide on the number of replicas?",
        "What does serving 50 requests/s on each GPU option cost per hour?",
        "Which metrics make Ray Serve add replicas?",
    ]


async def test_a_model_that_talks_nonsense_costs_nothing_but_the_call(tmp_path: Path) -> None:
    model = ScriptedModel([ScriptedStep(None, "I am a helpful assistant. " * 8)])
    assert await plan(tmp_path, model, question="Why do tides follow the moon?") == [
        "Why do tides follow the moon?"
    ]


async def test_no_call_is_made_when_the_clauses_are_enough(tmp_path: Path) -> None:
    assert len(await plan(tmp_path, ScriptedModel([]), question=DEMO, max_questions=2)) == 2
    assert await plan(tmp_path, ScriptedModel([]), question="Why do tides turn?", max_questions=1)


@pytest.mark.parametrize(
    "given", [{"question": "  "}, {"question": "?"}, {"question": DEMO, "max_questions": 0}]
)
async def test_bad_input_is_refused(tmp_path: Path, given: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        await plan(tmp_path, ScriptedModel([]), **given)


def test_a_pronoun_gets_what_it_stands_for() -> None:
    assert clauses("What are heat pumps, and how do they work in winter?") == [
        "What are heat pumps?",
        "How do they (heat pumps) work in winter?",
    ]


def test_a_list_inside_a_question_is_not_split() -> None:
    assert clauses("Which of rye, wheat and oats grows best on clay?") == [
        "Which of rye, wheat and oats grows best on clay?"
    ]


_ask = st.sampled_from(["how", "what", "why", "which gate", "is the ferry", "when does the tide"])
_rest = st.lists(
    st.sampled_from(["harbour", "moon", "open", "pumps", "cost", "it", "every day"]), min_size=1, max_size=6
)


@given(st.lists(st.tuples(_ask, _rest), min_size=1, max_size=4))
def test_every_content_word_is_in_some_clause(parts: list[tuple[str, list[str]]]) -> None:
    question = ", and ".join(f"{ask} {' '.join(rest)}" for ask, rest in parts) + "?"
    split = clauses(question)
    assert split
    assert all(part.endswith("?") for part in split)
    assert set(content_stems(question)) <= set(content_stems(" ".join(split)))
