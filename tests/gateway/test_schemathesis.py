"""The gateway held against its own OpenAPI document by schemathesis: thousands of requests, always the same.

No answer is a server's error, each has a documented status, type and shape; what does not fit the document is
refused, and what fits is taken but for the exceptions in schemathesis.toml.
"""

import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from manta.messages import ChatChunk, ChatRequest, ModelInfo, Usage
from tests.gateway.serving import served_apart

CONFIG = Path(__file__).with_name("schemathesis.toml")


class Brief:
    """A model whose every answer is one word, however many were asked for."""

    async def info(self) -> ModelInfo:
        return ModelInfo("brief", 4096)

    async def count_tokens(self, messages: Sequence[object]) -> int:
        return len(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        yield ChatChunk("yes")
        yield ChatChunk(finish_reason="stop", usage=Usage(1, 1, model_calls=1))


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with served_apart(tmp_path, {"brief": Brief()}, curtailed=True) as platform:
        platform.release()
        # It is made when it is first asked for; schemathesis waits for ten seconds at most.
        httpx.get(f"{platform.url}/openapi.json", timeout=120).raise_for_status()
        yield platform.url


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "more", [(), pytest.param(("--max-examples=50",), marks=pytest.mark.long)], ids=["short", "long"]
)
def test_every_answer_is_as_documented(url: str, tmp_path: Path, more: Sequence[str]):
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(CONFIG),
        "run",
        f"{url}/openapi.json",
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=3500, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
