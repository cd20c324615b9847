"""Runs: started, followed, answered, forked, rated."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from manta.messages import Budget, to_json
from manta.wire.call import Call, given, nothing, once, part
from manta.wire.values import (
    Approval,
    Feedback,
    RecordedCall,
    Run,
    RunResult,
    approval_of,
    call_of,
    feedback_of,
    run_of,
)

BudgetLike = Budget | Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is to be done, beside its graph and input."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    thread: str | None = None
    budget: BudgetLike | None = None
    priority: int = 0
    timeout_s: float | None = None
    webhook: str | None = None
    reject_if_busy: bool = False

    def plain(self) -> dict[str, Any]:
        return given(
            metadata=dict(self.metadata),
            thread_id=self.thread,
            budget=budget_json(self.budget),
            priority=self.priority or None,
            timeout_s=self.timeout_s,
            webhook=self.webhook,
            multitask_strategy="reject" if self.reject_if_busy else None,
        )


def budget_json(budget: BudgetLike | None) -> dict[str, Any] | None:
    if budget is None:
        return None
    return given(**(dataclasses.asdict(budget) if isinstance(budget, Budget) else dict(budget)))


def submit(graph: str, run_input: Any, key: str, options: RunOptions) -> Call[Run]:
    body = {"agent_id": graph, "input": to_json(run_input), **options.plain()}
    return Call("POST", "/runs", _run, json=body, headers={"Idempotency-Key": key}, repeatable=True)


def get(run_id: str) -> Call[Run]:
    return Call("GET", f"/runs/{part(run_id)}", _run, repeatable=True)


def wait(run_id: str, read_timeout_s: float) -> Call[RunResult]:
    def parse(response: httpx.Response) -> RunResult:
        body = response.json()
        messages = tuple(body.get("messages") or ())
        return RunResult(run_of(body["run"]), dict(body.get("values") or {}), messages)

    return Call("GET", f"/runs/{part(run_id)}/wait", parse, repeatable=True, read_timeout_s=read_timeout_s)


def search(
    graph: str | None,
    status: str | None,
    reason: str | None,
    thread: str | None,
    metadata: Mapping[str, Any] | None,
    limit: int,
    offset: int,
) -> Call[Sequence[Run]]:
    if status == "waiting":
        status, reason = None, "waiting"
    wanted = dict(metadata) if metadata else None
    body = given(
        agent_id=graph,
        status=status,
        reason=reason,
        thread_id=thread,
        metadata=wanted,
        limit=limit,
        offset=offset,
    )
    return Call(
        "POST", "/runs/search", lambda r: [run_of(run) for run in r.json()], json=body, repeatable=True
    )


def cancel(run_id: str, until_done: bool) -> Call[None]:
    params = {"wait": "true" if until_done else "false"}
    return Call("POST", f"/runs/{part(run_id)}/cancel", nothing, params=params, repeatable=True)


def delete(run_id: str) -> Call[None]:
    return Call("DELETE", f"/runs/{part(run_id)}", nothing)


def approvals(limit: int, offset: int) -> Call[Sequence[Approval]]:
    params = {"limit": limit, "offset": offset}
    return Call(
        "GET", "/approvals", lambda r: [approval_of(a) for a in r.json()], params=params, repeatable=True
    )


def decide(run_id: str, action: str, step: str | None, value: Any, comment: str) -> Call[Run]:
    body = {**given(action=action, step=step), "value": to_json(value), "comment": comment}
    path = f"/runs/{part(run_id)}/decisions"
    return Call("POST", path, _run, json=body, headers=once(), repeatable=True)


def fork(run_id: str, step: str, run_input: Mapping[str, Any] | None, key: str) -> Call[Run]:
    body = given(step=step, input=None if run_input is None else to_json(run_input))
    headers = {"Idempotency-Key": key}
    return Call("POST", f"/runs/{part(run_id)}/fork", _run, json=body, headers=headers, repeatable=True)


def resume(run_id: str, budget: BudgetLike | None) -> Call[Run]:
    path, body = f"/runs/{part(run_id)}/resume", given(budget=budget_json(budget))
    return Call("POST", path, _run, json=body, headers=once(), repeatable=True)


def rate(run_id: str, rating: int | None, comment: str) -> Call[Feedback]:
    body = {**given(rating=rating), "comment": comment}
    path = f"/runs/{part(run_id)}/feedback"
    return Call("POST", path, lambda r: feedback_of(r.json()), json=body, headers=once(), repeatable=True)


def feedback(run_id: str) -> Call[Sequence[Feedback]]:
    return Call(
        "GET",
        f"/runs/{part(run_id)}/feedback",
        lambda r: [feedback_of(f) for f in r.json()],
        repeatable=True,
    )


def calls(run_id: str, whole: bool) -> Call[Sequence[RecordedCall]]:
    params = {"whole": "true" if whole else "false"}
    return Call(
        "GET",
        f"/runs/{part(run_id)}/calls",
        lambda r: [call_of(c) for c in r.json()],
        params=params,
        repeatable=True,
    )


def _run(response: httpx.Response) -> Run:
    return run_of(response.json())
