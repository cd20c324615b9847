"""The assistant: what it computes, looks up, and leaves to the model."""

from pathlib import Path
from typing import Any

import pytest

from agents.arithmetic import expression, program
from agents.assistant import Assistant
from agents.base import AgentSetup
from agents.run_python import PythonRunner
from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import InvalidInput, SandboxUnavailable
from tests.agents.step_support import StepBench
from tools.toolbox import Toolbox, tool


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("What is 12 * (3 + 4)?", "12 * (3 + 4)"),
        ("What is 17% of 2,340?", "17 / 100 * 2340"),
        ("How much is 1,200 times 3.50?", "1200 * 3.5"),
        ("12 divided by 0", "12 / 0"),
        ("Is 2^10 more than a thousand?", "2 ** 10"),
        ("6 × 7, please", "6 * 7"),
        ("what is 10 - 12?", "10 - 12"),
        ("(What is 2+2)", "2 + 2"),
        ("-3 + 5", "-3 + 5"),
        ("I paid 3 - 4 euros", None),
        ("a range of 3-4 days, open 24/7 since 2024-05-01", None),
        ("version 1.2.3 + 4", None),
        ("007 + 1", None),
        ("call +49 30 1234", None),
        ("What is 5?", None),
        ("What is __import__('os').getcwd() + 1", None),
        ("", None),
    ],
)
def test_arithmetic_is_found_and_what_only_looks_like_it_is_not(question: str, found: str | None):
    assert expression(question) == found


def test_a_program_prints_without_the_noise_of_fractions(capsys: pytest.CaptureFixture[str]):
    for asked, printed in (("0.1 + 0.2", "0.3"), ("2 ** 70", str(2**70)), ("10 / 4", "2.5")):
        exec(program(asked), {})
        assert capsys.readouterr().out.strip() == printed


def run(tmp_path: Path, model: ScriptedModel, question: str, tools: Toolbox | None = None) -> Any:
    context = StepBench(tmp_path, model).context({}, {"question": question, "collection": None})
    return Assistant(AgentSetup("assistant", tools=tools or Toolbox())).run(context)


async def test_what_cannot_be_computed_is_said_and_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = await run(tmp_path, ScriptedModel([]), "What is 12 / 0?")
    assert found["answer"] == "12 / 0: ZeroDivisionError: division by zero."

    async def refuse(self: PythonRunner, code: str) -> dict[str, Any]:
        raise SandboxUnavailable("there is no sandbox here")

    monkeypatch.setattr(PythonRunner, "execute", refuse)
    found = await run(tmp_path, ScriptedModel([]), "What is 12 / 3?")
    assert found == {
        "answer": "12 / 3 was not computed: there is no sandbox here.",
        "tools": [],
        "sources": [],
    }


@tool
def whisper(text: str) -> str:
    """Says it quietly."""
    return text.lower()


async def test_an_able_model_has_the_tools_of_the_settings_too(tmp_path: Path):
    model = ScriptedModel([ScriptedStep("HELLO", "done")], abilities=("tools",))
    found = await run(tmp_path, model, "Say HELLO quietly.", Toolbox([whisper]))
    assert found == {"answer": "done", "tools": [], "sources": []}
    assert {spec.name for spec in model.requests[0].tools} == {"whisper", "run_python"}


async def test_an_empty_question_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput):
        await run(tmp_path, ScriptedModel([]), "  ")
