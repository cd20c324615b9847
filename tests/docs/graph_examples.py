"""The graphs on a page, each with examples of what a run comes to; and a driver that runs them.

An example is a YAML block with `answers`: what each execution gives, by its key, in any order. Besides:
`input`, `thread`; `output` or the code of the `error`; what is `skipped`, which `limits` apply to a key, what
was `asked` for an approval. It is about the graph before it, or the one named `graph`.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from coordinator.submission import check_input
from manta.errors import StepError
from manta.graph import Graph, embed, parse_graph
from tests.coordinator.play import Play
from tests.docs.pages import Block, blocks

FIELDS = {"graph", "input", "thread", "answers", "output", "error", "skipped", "limits", "asked"}


@dataclass(frozen=True)
class Example:
    block: Block
    graph: Graph
    facts: dict[str, Any]

    def __str__(self) -> str:
        return str(self.block)


def is_example(data: Any) -> bool:
    return isinstance(data, dict) and "answers" in data


def examples(page: str) -> list[Example]:
    """Those of a page, with their graphs written out."""
    found: list[tuple[Block, str, dict[str, Any]]] = []
    graphs: dict[str, Graph] = {}
    latest = ""
    for block in blocks("yaml"):
        data = yaml.safe_load(block.text)
        if block.page != page:
            continue
        if is_example(data):
            found.append((block, data.get("graph", latest), data))
        elif "steps" in data:
            latest = data["name"]
            graphs[latest] = parse_graph(data, str(block))
    return [Example(block, embed(graphs[name], graphs), facts) for block, name, facts in found]


def play(example: Example) -> Play:
    """Run it to its end, giving the answers as the executions come up."""
    facts = example.facts
    assert facts.keys() <= FIELDS, facts.keys() - FIELDS
    check_input(example.graph, facts["input"])
    answers = dict(facts["answers"])
    run = Play(example.graph, facts["input"], thread=facts.get("thread"))
    while run.finished is None:
        key = run.under_way[0]
        assert key in answers, f"{key} runs and has no answer"
        answer = answers.pop(key)
        if isinstance(answer, dict) and answer.keys() == {"error"}:
            run.failed(key, StepError("it did not work", code=answer["error"]).to_json())
        else:
            run.done(key, answer)
    assert not answers, f"these do not run: {sorted(answers)}"
    return run
