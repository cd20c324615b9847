"""The same load over the OpenAI-compatible HTTP of any server: `/v1/completions`, streamed."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx

from benchmarks.engine_load import Clock, Heard

TIMEOUT_S = 600.0


class OverHttp:
    """`url`: up to and without `/v1`. `model`: empty takes the first that the server lists."""

    def __init__(self, name: str, url: str, model: str = "") -> None:
        self.name = name
        self._url = url.rstrip("/")
        self._model = model

    async def run(self, prompts: Sequence[str], new_tokens: int) -> Heard:
        """One connection for each prompt. A gap lies between two events, which may carry several tokens.

        Raises RuntimeError for an answer that is an error or has no usage.
        """
        limits = httpx.Limits(max_connections=len(prompts) + 1)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:
            model = self._model or await self._first_model(client)
            bodies = [_body(model, prompt, new_tokens) for prompt in prompts]
            began = time.perf_counter()
            asked = (self._one(client, body, Clock(began)) for body in bodies)
            answers = await asyncio.gather(*asked)
            seconds = time.perf_counter() - began
        return Heard(
            sum(usage["completion_tokens"] for usage, _ in answers),
            sum(usage["prompt_tokens"] for usage, _ in answers),
            seconds,
            tuple(first for _, clock in answers for first in clock.first),
            tuple(gap for _, clock in answers for gap in clock.gaps),
        )

    async def _first_model(self, client: httpx.AsyncClient) -> str:
        answer = await client.get(f"{self._url}/v1/models")
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])

    async def _one(
        self, client: httpx.AsyncClient, body: dict[str, Any], clock: Clock
    ) -> tuple[dict[str, int], Clock]:
        usage: dict[str, int] | None = None
        async with client.stream("POST", f"{self._url}/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"{self.name}: {answer.status_code} {(await answer.aread())[:500]!r}")
            async for line in answer.aiter_lines():
                if not line.startswith("data:") or line.endswith("[DONE]"):
                    continue
                event = json.loads(line[5:])
                if "error" in event:
                    raise RuntimeError(f"{self.name}: {event['error']}")
                if any(choice.get("text") for choice in event["choices"]):
                    clock.text(time.perf_counter())
                usage = event.get("usage") or usage
        if usage is None:
            raise RuntimeError(f"{self.name} told no usage")
        return usage, clock


def _body(model: str, prompt: str, new_tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
