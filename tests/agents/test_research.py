"""The researcher: what it reads, what stands of what the model writes, and how quotations fill up."""

from pathlib import Path
from typing import Any

import pytest

from agents.base import AgentSetup
from agents.context import LocalArtifacts, LocalCallLog, TaskContext
from agents.quotes import RELEVANT, Relevance, expanded, quote, relevant
from agents.research import Researcher, filled
from agents.scripted import ScriptedModel, ScriptedStep
from agents.web_passages import passages_of
from manta.config import SearchSettings
from manta.errors import InvalidInput, ToolError
from manta.ids import RunId, StepKey
from manta.messages import CallScope, Passage, Task, ToolCall

TEXTS = {
    "gates.md": "The harbour gate closes 45 minutes before high water. A bell rings when the gate closes. "
    "The keeper writes the time of every closing into the log.",
    "pumps.md": "Pumps drain the harbour while the gate is closed. Each pump moves 300 litres per second. "
    "A second pump starts when the harbour water rises above the red mark.",
    "bread.md": "Rye dough rests for twelve hours before it is baked. The oven must be hot.",
}


class Shelf:
    """Documents of one passage each; a search returns them all and counts itself."""

    def __init__(self, texts: dict[str, str] = TEXTS) -> None:
        self.passages = [Passage(f"p-{name}", name, 0, len(text), text) for name, text in texts.items()]
        self.searches: list[tuple[str, str]] = []

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        self.searches.append((collection, query))
        return self.passages[:limit]


async def find(
    folder: Path,
    model: ScriptedModel,
    shelf: Shelf,
    question: str,
    *,
    collection: str | None = "harbour",
    **setup: Any,
) -> dict[str, Any]:
    task = Task(
        CallScope(RunId("r"), StepKey("research[0]")),
        "research",
        {"question": question, "collection": collection},
    )
    context = TaskContext(
        task,
        model=model,
        documents=shelf,
        artifacts=LocalArtifacts(folder),
        call_log=LocalCallLog(),
        workdir=folder,
    )
    finding: dict[str, Any] = await Researcher(AgentSetup("research", **setup)).run(context)
    return finding


QUESTION = "When does the harbour gate close?"


async def test_supported_sentences_stand_inventions_go_and_quotations_fill_up(tmp_path: Path) -> None:
    answer = (
        "The harbour gate closes 45 minutes before high water [1]. "
        "The harbour gate closes 90 minutes before low water. The gate was built by a king."
    )
    model = ScriptedModel([ScriptedStep(QUESTION, answer)])
    finding = await find(tmp_path, model, Shelf(), QUESTION)
    written = [s for s in finding["sentences"] if s["origin"] == "model"]
    assert [s["text"] for s in written] == ["The harbour gate closes 45 minutes before high water."]
    assert written[0]["citations"] == ["p-gates.md"]
    assert len(finding["dropped"]) == 2
    quoted = [s for s in finding["sentences"] if s["origin"] == "quoted"]
    texts = {p["id"]: p["text"] for p in finding["passages"]}
    assert quoted
    assert all(s["text"] in texts[s["citations"][0]] for s in quoted)
    cited = {texts[key] for s in finding["sentences"] for key in s["citations"]}
    assert len(cited) >= 2
    assert not any("dough" in text for text in texts.values())


async def test_passages_come_as_they_were_found(tmp_path: Path) -> None:
    shelf = Shelf()
    finding = await find(tmp_path, ScriptedModel([ScriptedStep(None, "Nonsense.")]), shelf, QUESTION)
    for p in finding["passages"]:
        assert TEXTS[p["document"]][p["start"] : p["end"]] == p["text"]
    assert shelf.searches[0] == ("harbour", QUESTION)
    assert len(shelf.searches) == 2


async def test_what_the_documents_do_not_answer_stays_empty_without_a_model_call(tmp_path: Path) -> None:
    finding = await find(tmp_path, ScriptedModel([]), Shelf(), "Who won the chess tournament in Reykjavik?")
    assert finding["sentences"] == []


async def test_the_prompt_fits_the_window(tmp_path: Path) -> None:
    long = {f"d{i}.md": f"The harbour gate number {i} closes at dusk. " * 60 for i in range(6)}
    model = ScriptedModel([ScriptedStep(None, "Nothing.")], context_window=400, abilities=("json",))
    await find(tmp_path, model, Shelf(long), QUESTION, strategy="pipeline")
    assert await model.count_tokens(model.requests[0].messages) < 400 - 110


async def test_a_model_that_calls_tools_searches_itself_and_is_checked_alike(tmp_path: Path) -> None:
    model = ScriptedModel(
        [
            ScriptedStep(None, "", (ToolCall("c1", "search_documents", {"query": "harbour pumps"}),)),
            ScriptedStep(
                None, "Each pump moves 300 litres per second. Each pump costs the harbour 900 euros a year."
            ),
        ],
        abilities=("tools",),
    )
    shelf = Shelf()
    finding = await find(tmp_path, model, shelf, "How much water does each harbour pump move?")
    model.assert_complete()
    assert shelf.searches == [("harbour", "harbour pumps")]
    assert [s["text"] for s in finding["sentences"] if s["origin"] == "model"] == [
        "Each pump moves 300 litres per second."
    ]
    assert "900" in finding["dropped"][0]["reason"]


async def test_an_empty_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        await find(tmp_path, ScriptedModel([]), Shelf(), "  ")


async def test_without_a_web_it_says_so_plainly(tmp_path: Path) -> None:
    search = SearchSettings(engine="searxng", base_url="http://127.0.0.1:9")
    with pytest.raises(ToolError) as caught:
        await find(tmp_path, ScriptedModel([]), Shelf(), QUESTION, collection=None, search=search)
    assert "docs" in caught.value.fix


def test_web_passages_are_verbatim_and_named_by_their_address() -> None:
    text = "First paragraph about tides.\n\n" + "Another sentence about the moon and the sea. " * 80
    found = passages_of("https://example.org/tides", text)
    assert len(found) > 1
    assert all(text[p.start : p.end] == p.text and p.source == "web" for p in found)
    assert len({p.id for p in found}) == len(found)


def test_rare_words_of_the_question_decide_what_is_relevant() -> None:
    passages = Shelf().passages
    score = Relevance(QUESTION, passages)
    assert score.of(TEXTS["gates.md"]) >= score.of(TEXTS["pumps.md"]) > score.of(TEXTS["bread.md"])
    assert score.of(TEXTS["bread.md"]) < RELEVANT
    assert "p-bread.md" not in {p.id for p in relevant(QUESTION, passages)}


def test_a_search_is_widened_by_what_the_best_passages_share() -> None:
    passages = [Passage(str(i), "d", 0, 1, f"The gate closes at dusk by telegraph {i}.") for i in range(3)]
    assert "telegraph" in expanded("When does the gate close?", passages)


def test_quotations_do_not_repeat_what_is_there() -> None:
    passages = Shelf().passages
    first = quote(QUESTION, passages, 2)
    again = quote(QUESTION, passages, 2, beside=[s.text for s in first])
    assert not {s.text for s in first} & {s.text for s in again}


def passage(name: str, text: str) -> Passage:
    return Passage(f"p-{name}", name, 0, len(text), text)


def quoted(question: str, *texts: str, count: int = 5) -> list[str]:
    return [s.text for s in quote(question, [passage(f"{i}.md", t) for i, t in enumerate(texts)], count)]


def test_a_sentence_that_explains_is_quoted_before_entries_and_lists_of_names() -> None:
    told = quoted(
        "How does the harbour choose the number of pumps?",
        "`pumps`: The number of pumps of the harbour. Valid names for harbour pumps are `a`, `b`, `c` and `d`. "
        "Must be the number of pumps of the harbour. This choice of the number of harbour pumps is new.",
        "The harbour chooses the number of pumps by the water level at the gate.",
    )
    assert told[0] == "The harbour chooses the number of pumps by the water level at the gate."
    assert not any("Valid names" in text for text in told)


def test_a_sentence_without_a_word_of_the_question_is_not_quoted() -> None:
    told = quoted(
        "When does the harbour gate close?",
        "The harbour gate closes at dusk. Rye dough rests for twelve hours.",
    )
    assert told == ["The harbour gate closes at dusk."]


def test_few_quotations_are_better_than_some_far_below_the_best() -> None:
    told = quoted(
        "When does the harbour gate close in winter?",
        "The harbour gate closes in winter when ice stands before it.",
        "A painter lives beside the old harbour with his cat.",
    )
    assert len(told) == 1


def test_a_denial_comes_behind_what_is_the_case() -> None:
    told = quoted(
        "What makes the harbour gate open?",
        "The harbour gate does not open in a storm or at night.",
        "The harbour gate opens when a lamp is lit by the keeper.",
    )
    assert told[0].startswith("The harbour gate opens")


def test_a_second_document_is_quoted_where_it_speaks_of_the_question() -> None:
    config = (
        "The harbour gate closes when the bell rings. The harbour gate closes again when the moon is full. "
    )
    more = "The gate of the harbour closes for a feast when the town asks for it. "
    passages = [
        Passage("a", "a.md", 0, len(config), config),
        Passage("b", "a.md", 200, 200 + len(more), more),
        passage("c", "The harbour gate is made of oak and iron."),
    ]
    sentences = filled("When does the harbour gate close?", [], passages)
    cited = {key for s in sentences for key in s.citations}
    assert cited == {"a", "b", "p-c"}
