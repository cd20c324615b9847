"""What the routes under /v1 share: their errors, and how an answer is sent."""

import json
import time
import uuid
from typing import Any

from fastapi import APIRouter

import manta
from manta.ids import RunId
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.errors import OpenAIErrorJson, declared

RUN_HEADER = "Manta-Run-Id"
"""Names the run behind the answer of a graph."""
FINGERPRINT = f"manta-{manta.__version__}"
DONE = "data: [DONE]\n\n"
TAKING = declared(413, 415, shape=OpenAIErrorJson)
ASKING = {**TAKING, **declared(502, 504, shape=OpenAIErrorJson)}
"""Errors of routes with a body, and of those that ask a model."""
RUNNING = {**ASKING, **declared(409, shape=OpenAIErrorJson)}
"""Those of routes that may start a run."""


def openai_router() -> APIRouter:
    shared = declared(400, 403, 404, 429, 503, shape=OpenAIErrorJson)
    return APIRouter(route_class=StrictRoute, responses=shared)


def data(value: dict[str, Any]) -> str:
    """A server-sent event without a name."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def new_id(kind: str, run: RunId | None = None) -> str:
    """`chatcmpl-…`, `cmpl-…`, `resp_…`; the answer of a run has the run's id in its own."""
    return f"{kind}{run or uuid.uuid4().hex}"


def now() -> int:
    """Seconds since the epoch, as every object is stamped."""
    return int(time.time())


def run_headers(run: RunId | None) -> dict[str, str]:
    return {} if run is None else {RUN_HEADER: run}
