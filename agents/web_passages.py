"""The web as a collection: search, fetch the pages found, and cut their text into passages that can be cited.

A passage's document is the address the page was finally read at, its offsets count in the page's text as read.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

from agents.quotes import Relevance
from manta.config import SearchSettings
from manta.errors import ToolError
from manta.messages import Passage, from_json, to_json
from manta.protocols import AgentContext
from tools.fetch import fetch_page
from tools.passages import split
from tools.search import WebSearch
from tools.toolbox import Tool, ToolContext

_HITS, _PAGES, _PASSAGES_A_PAGE = 6, 4, 30


class WebReader:
    """Finds passages on the web; every search and every page is recorded."""

    def __init__(self, settings: SearchSettings) -> None:
        self._search = WebSearch(settings.engine, settings.base_url or None)

    async def find(self, context: AgentContext, question: str) -> list[Passage]:
        """Passages of the pages found, those that speak of the question first.

        Raises:
            ToolError: the search failed, or not one page could be read.
        """
        hits = await context.call_tool("web_search", {"query": question}, lambda: self._hits(question))
        if not hits:
            return []
        urls = [str(hit["url"]) for hit in hits][:_PAGES]
        pages = await asyncio.gather(*(self._read(context, url) for url in urls))
        failures = [page for page in pages if isinstance(page, ToolError)]
        if len(failures) == len(pages):
            raise failures[0]
        found = [passage for page in pages if not isinstance(page, ToolError) for passage in page]
        score = Relevance(question, found)
        return sorted(found, key=lambda passage: -score.with_shared(passage.text))[: 2 * _HITS]

    def tools(self) -> list[Tool]:
        """`web_search` and `fetch_page` for a model; a page comes as passages."""

        async def search(arguments: Mapping[str, Any], context: ToolContext | None) -> Any:
            return await self._hits(str(arguments["query"]))

        async def fetch(arguments: Mapping[str, Any], context: ToolContext | None) -> Any:
            return await _passages(str(arguments["url"]))

        return [
            Tool("web_search", "Search the web: titles, addresses and snippets.", _one("query"), search),
            Tool("fetch_page", "Read a web page, as passages of its text.", _one("url"), fetch),
        ]

    async def _hits(self, query: str) -> list[dict[str, Any]]:
        return [to_json(hit) for hit in await self._search.search(query, _HITS)]

    async def _read(self, context: AgentContext, url: str) -> list[Passage] | ToolError:
        """The passages of a page, or why it cannot be read: one dead link must not cost the others."""
        try:
            rows = await context.call_tool("fetch_page", {"url": url}, lambda: _passages(url))
        except ToolError as error:
            return error
        return [from_json(Passage, row) for row in rows]


async def _passages(url: str) -> list[dict[str, Any]]:
    page = await fetch_page(url)
    return [to_json(p) for p in passages_of(page.final_url, page.text)[:_PASSAGES_A_PAGE]]


def passages_of(address: str, text: str) -> list[Passage]:
    """A page's text as passages."""
    return [
        Passage(
            _id(address, span.start, span.end),
            address,
            span.start,
            span.end,
            text[span.start : span.end],
            0.0,
            "web",
        )
        for span in split(text)
    ]


def _id(address: str, start: int, end: int) -> str:
    return "w" + hashlib.sha256(f"{address}\n{start}-{end}".encode()).hexdigest()[:16]


def _one(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "minLength": 1, "maxLength": 2000}},
        "required": [name],
        "additionalProperties": False,
    }
