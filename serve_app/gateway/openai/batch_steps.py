"""The steps of a batch's run, as its graph names them. They run in an agent's process; each is safe to repeat."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from manta.clock import SystemClock
from manta.messages import ArtifactRef, from_json, to_json
from manta.protocols import AgentContext
from serve_app.gateway.openai.batch_lines import JSONL, encoded, lines_of, planned
from serve_app.gateway.openai.batch_work import PartWork, Result

WRITTEN_AT_ONCE = 8


async def split(context: AgentContext, file: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    """Looks at every line of the file, and keeps it in parts.

    Returns:
        `total` (lines), `errors` (what is wrong with them; then there are no parts), `parts`, each an artifact with
        its number of `lines` and the bytes of their ids in JSON, and `at`, the time.

    Raises:
        NotFound: the file is not stored any more. StepError: it is damaged.
    """
    data = await context.artifacts.get(from_json(ArtifactRef, file))
    plan = await asyncio.to_thread(planned, data, endpoint)
    parts: list[dict[str, Any]] = []
    for first in range(0, len(plan.cuts), WRITTEN_AT_ONCE):
        cuts = plan.cuts[first : first + WRITTEN_AT_ONCE]
        kept = await asyncio.gather(
            *(_kept(context, data[cut.start : cut.end], f"part{cut.start}.jsonl") for cut in cuts)
        )
        parts += [
            {**to_json(ref), "lines": cut.lines, "id_bytes": cut.id_bytes}
            for ref, cut in zip(kept, cuts, strict=True)
        ]
    return {"total": plan.total, "errors": plan.faults, "parts": parts, "at": SystemClock().now()}


async def answer(context: AgentContext, part: Mapping[str, Any], endpoint: str, model: str) -> dict[str, Any]:
    """Answers the requests of a part, as far as the batch's window allows.

    Returns:
        How many were `completed`, `failed` and `expired`, and the artifacts with their lines: `output` of the
        first kind, `errors` of the others; null where there are none.

    Raises:
        MantaError: the part as a whole could not be done.
    """
    lines = await asyncio.to_thread(lines_of, await context.artifacts.get(from_json(ArtifactRef, part)))
    results = await PartWork(context, endpoint, model, SystemClock()).results(lines)
    done = [result for result in results if result.kind == "completed"]
    others = [result for result in results if result.kind != "completed"]
    return {
        **{
            kind: sum(result.kind == kind for result in results)
            for kind in ("completed", "failed", "expired")
        },
        "output": await _file(context, done, "output.jsonl"),
        "errors": await _file(context, others, "errors.jsonl"),
    }


def summed(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """How many requests came to what, in those parts that could be done, and `at`, the time."""
    done = [part for part in parts if part is not None]
    counts = {kind: sum(part[kind] for part in done) for kind in ("completed", "failed", "expired")}
    return {**counts, "at": SystemClock().now()}


async def _file(context: AgentContext, results: Sequence[Result], name: str) -> dict[str, Any] | None:
    if not results:
        return None
    data = await asyncio.to_thread(encoded, [result.line for result in results])
    told: dict[str, Any] = to_json(await _kept(context, data, name))
    return told


async def _kept(context: AgentContext, data: bytes, name: str) -> ArtifactRef:
    path = context.workdir / name
    await asyncio.to_thread(path.write_bytes, data)
    return await context.artifacts.put(path, name, JSONL)
