"""The researcher: a question becomes a finding, sentences that the passages it read support.

By the strategy `pipeline` the code searches and chooses passages and the model only writes; by `agent` the model
chooses its searches. In both every sentence is checked afterwards, and where too few stand the passages are
quoted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.asking import ask, is_weak
from agents.base import AgentSetup
from agents.catalog import choose_strategy
from agents.grounding import PLAIN, STRICT, Grounded, ground
from agents.prompting import fit_passages, load_prompt, token_counter
from agents.quotes import excerpts, expanded, merged, quote, relevant
from agents.tool_loop import run_tool_loop
from agents.watching import WatchingContext
from agents.web_passages import WebReader
from manta.errors import InvalidInput
from manta.messages import Finding, ModelInfo, Passage, Sentence, from_json, to_json
from manta.protocols import AgentContext
from tools.toolbox import Tool, ToolContext

SEARCHED = 12
"""Passages asked of a search; those that do not speak of the question are left out."""
_PASSAGES, _DOCUMENTS = 3, 2
"""Passages and documents an answer should rest on where so many speak of the question."""
WANTED = 5
"""Sentences a finding should have; quotations fill up to it."""
_ANSWER_TOKENS = 110
_EXCERPTS = 8
_WEAK_PASSAGE_TOKENS = 480
"""A small model copies the beginning of a long text and loses its end, so it is shown little and that to the point."""
_PASSAGE_TOKENS = 6000
_QUERY = {"type": "string", "minLength": 1, "maxLength": 400}


class Researcher:
    """Input `{question, collection}`, a null collection being the web; output a `Finding` as JSON."""

    def __init__(self, setup: AgentSetup) -> None:
        self._setup = setup
        self._web = WebReader(setup.search)

    async def run(self, context: AgentContext) -> Any:
        """Raises InvalidInput for an empty question, NotFound for an unknown collection, ToolError without a web."""
        question = " ".join(str(context.task.input.get("question") or "").split())
        if not question:
            raise InvalidInput("the question is empty", fix="give a question")
        collection = context.task.input.get("collection") or None
        info = await context.model.info()
        if choose_strategy(self._setup.strategy, info) == "agent":
            read, grounded = await self._by_agent(context, question, collection)
        else:
            read, grounded = await self._by_pipeline(context, info, question, collection)
        sentences = filled(question, grounded.kept, relevant(question, read))
        return to_json(Finding(question, tuple(sentences), tuple(read), grounded.dropped))

    async def _by_pipeline(
        self, context: AgentContext, info: ModelInfo, question: str, collection: str | None
    ) -> tuple[list[Passage], Grounded]:
        found = relevant(question, await self._find(context, question, collection))
        if not found:
            return [], Grounded((), ())
        shown = await self._shown(context, info, question, found)
        if not shown:
            return found, Grounded((), ())
        messages = load_prompt("research").messages(question=question, texts=[p.text for p in shown])
        text = await ask(context, messages, max_tokens=_ANSWER_TOKENS)
        # What the model was not shown it cannot have drawn on, so only the shown passages may support it.
        rules = STRICT if is_weak(info) else PLAIN
        read = [passage for passage in found if passage.id in {p.id for p in shown}]
        return found, ground(text, read, rules, echoes=[question, messages[-1].content.splitlines()[-1]])

    async def _shown(
        self, context: AgentContext, info: ModelInfo, question: str, found: Sequence[Passage]
    ) -> tuple[Passage, ...]:
        """What the model reads: whole passages, or for a weak model only their sentences on the question."""
        bare = await context.model.count_tokens(load_prompt("research").messages(question=question, texts=[]))
        room = info.context_window - bare - _ANSWER_TOKENS - 16
        if is_weak(info):
            found, room = excerpts(question, found, _EXCERPTS), min(room, _WEAK_PASSAGE_TOKENS)
        count = token_counter(context.model)
        return await fit_passages(found, max(0, min(room, _PASSAGE_TOKENS)), count)

    async def _find(self, context: AgentContext, question: str, collection: str | None) -> list[Passage]:
        if collection is None:
            return await self._web.find(context, question)
        first = await context.documents.search(collection, question, SEARCHED)
        if not first:
            return []
        # People ask in their words; a second search uses the documents' own.
        second = await context.documents.search(collection, expanded(question, first), SEARCHED)
        return merged(first, second)

    async def _by_agent(
        self, context: AgentContext, question: str, collection: str | None
    ) -> tuple[list[Passage], Grounded]:
        watching = WatchingContext(context)
        where = "the web" if collection is None else "the documents"
        tools = [document_search(collection)] if collection else self._web.tools()
        system, user = load_prompt("research_agent").messages(question=question, where=where)
        text = await run_tool_loop(
            watching,
            system=system.content,
            user=user.content,
            tools=self._setup.tools.with_tools(*tools),
            show_tokens=True,
            # A finding stands on what was read.
            look_first=True,
        )
        read = passages_in([call.result for call in watching.seen])
        return read, ground(text, read, PLAIN, echoes=[question])


def filled(question: str, kept: Sequence[Sentence], passages: Sequence[Passage]) -> list[Sentence]:
    """The model's sentences that stand, with quotations where they are few or lean on few passages."""
    sentences = [*kept, *quote(question, passages, WANTED - len(kept), beside=[s.text for s in kept])]
    while True:
        cited = [passage for passage in passages if any(passage.id in s.citations for s in sentences)]
        documents = {passage.document for passage in cited}
        if len(cited) >= _PASSAGES and len(documents) >= _DOCUMENTS:
            return sentences
        fresh = [passage for passage in passages if passage not in cited]
        elsewhere = [passage for passage in fresh if passage.document not in documents]
        allowed = [passage.id for passage in elsewhere or fresh]
        more = quote(question, passages, 1, beside=[s.text for s in sentences], only=allowed)
        if not more:
            return sentences
        sentences += more


def document_search(collection: str) -> Tool:
    """A tool for a model that searches one collection."""

    async def run(arguments: Mapping[str, Any], context: ToolContext | None) -> Any:
        if context is None:
            raise InvalidInput("search_documents needs a task", fix="call it from an agent")
        return to_json(await context.documents.search(collection, str(arguments["query"]), SEARCHED // 2))

    parameters = {
        "type": "object",
        "properties": {"query": _QUERY},
        "required": ["query"],
        "additionalProperties": False,
    }
    return Tool("search_documents", "Passages of the documents that fit a query best.", parameters, run)


def passages_in(results: Sequence[Any]) -> list[Passage]:
    """Every passage that a tool returned, once, in the order seen."""
    found: dict[str, Passage] = {}
    for result in results:
        rows = result.get("passages", []) if isinstance(result, Mapping) else result
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, Mapping) and {"id", "document", "start", "end", "text"} <= set(row):
                passage = from_json(Passage, row)
                found.setdefault(passage.id, passage)
    return list(found.values())
