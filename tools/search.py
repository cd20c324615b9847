"""Search the web, with DuckDuckGo (no key) or a SearXNG server of one's own.

An empty list means that SearXNG answered and found nothing. DuckDuckGo's answer does not tell that from a
refusal, so there it is an error like every other failure.
"""

import asyncio
from dataclasses import dataclass
from typing import Literal

import httpx
from pydantic import BaseModel, ValidationError

from manta.errors import ToolError

Engine = Literal["duckduckgo", "searxng"]
_FIX = "check the network, or stay offline and search your own documents with --docs"


@dataclass(frozen=True, slots=True)
class SearchHit:
    title: str
    url: str
    snippet: str


class _Result(BaseModel):
    title: str = ""
    url: str
    content: str | None = None


class _Answer(BaseModel):
    """SearXNG's JSON: results, and the engines behind it that did not answer, each with a reason."""

    results: list[_Result]
    unresponsive_engines: list[list[str]] = []


class WebSearch:
    """One engine. base_url: the SearXNG server's address, needed for that engine alone."""

    def __init__(
        self, engine: Engine = "duckduckgo", base_url: str | None = None, timeout_s: float = 15
    ) -> None:
        if engine not in ("duckduckgo", "searxng"):
            raise ToolError(
                f"there is no search engine {engine!r}", fix="use duckduckgo or searxng", code="bad_input"
            )
        if engine == "searxng" and not base_url:
            raise ToolError("SearXNG has no address", fix="give its base URL", code="bad_input")
        self._engine = engine
        self._base_url = (base_url or "").rstrip("/")
        self._timeout_s = timeout_s

    async def search(self, query: str, limit: int = 8) -> list[SearchHit]:
        """At most `limit` hits, best first. Raises ToolError(code='search_unavailable')."""
        if not query.strip() or limit < 1:
            raise ToolError(
                "a search needs words and a limit of at least 1",
                fix="name what to look for",
                code="bad_input",
            )
        try:
            async with asyncio.timeout(self._timeout_s + 1):
                if self._engine == "searxng":
                    return await self._searxng(query, limit)
                return await asyncio.to_thread(_duckduckgo, query, limit, self._timeout_s)
        except TimeoutError as error:
            raise _unavailable(self._engine, f"no answer within {self._timeout_s:g} s") from error

    async def _searxng(self, query: str, limit: int) -> list[SearchHit]:
        try:
            async with httpx.AsyncClient(timeout=self._timeout_s, trust_env=False) as client:
                response = await client.get(f"{self._base_url}/search", params={"q": query, "format": "json"})
            response.raise_for_status()
            answer = _Answer.model_validate_json(response.content)
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            hint = "; its settings must list json under search.formats" if code == 403 else ""
            raise _unavailable("searxng", f"it answered {code}{hint}") from error
        except httpx.HTTPError as error:
            raise _unavailable("searxng", str(error) or type(error).__name__) from error
        except ValidationError as error:
            raise _unavailable("searxng", "its answer is not SearXNG's JSON") from error
        if not answer.results and answer.unresponsive_engines:
            engines = ", ".join(": ".join(entry) for entry in answer.unresponsive_engines)
            raise _unavailable("searxng", f"its engines did not answer ({engines})")
        hits = [SearchHit(hit.title, hit.url, hit.content or "") for hit in answer.results]
        return hits[:limit]


async def web_search(query: str, *, limit: int = 8, backend: Engine = "duckduckgo") -> list[SearchHit]:
    """One search with an engine that needs no configuration."""
    return await WebSearch(backend).search(query, limit)


def _unavailable(engine: str, reason: str) -> ToolError:
    return ToolError(f"{engine} cannot be searched: {reason}", fix=_FIX, code="search_unavailable")


def _duckduckgo(query: str, limit: int, timeout_s: float) -> list[SearchHit]:
    from ddgs import DDGS
    from ddgs.exceptions import DDGSException

    try:
        found = DDGS(timeout=max(1, int(timeout_s))).text(query, max_results=limit, backend="duckduckgo")
    except DDGSException as error:
        reason = str(error) or type(error).__name__
        if reason == "No results found.":
            # What the library also says after a refusal by the engine, so it must not pass for a result.
            reason = "it found nothing, or refused because of too many requests"
        raise _unavailable("duckduckgo", reason) from error
    return [SearchHit(hit.get("title", ""), hit.get("href", ""), hit.get("body", "")) for hit in found]
