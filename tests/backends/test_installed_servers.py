"""The server backend with servers that others wrote and that are no dependency of ours: llama.cpp's and vLLM.

They are those on the path, or the ones that LLAMA_SERVER and VLLM name.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from benchmarks.peer_transformers import from_gguf
from manta.config import ModelSettings
from manta.errors import ContextLengthExceeded, InvalidInput
from manta.messages import ChatChunk, ChatMessage, ChatRequest, Sampling, ToolSpec
from serve_app.backends.server import ServerBackend
from serve_app.engine.weights import embedded_llm_path
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

LLAMA = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
VLLM = os.environ.get("VLLM") or shutil.which("vllm")
WINDOW = 1024
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolSpec("get_weather", "The weather of a city", CITY)
CLOCK = ToolSpec("now", "The time of day", {"type": "object", "properties": {}})
ASK = (ChatMessage("user", "Name a city in Italy."),)
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}


# The embedded model's own template tells no tools, and llama.cpp then passes over them.
WITH_TOOLS = """{%- if tools %}<|im_start|>system
You may call these functions:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
Answer each call within <tool_call></tool_call> tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.content %}
{{ message.content }}
{%- endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def asking(**more: Any) -> ChatRequest:
    return ChatRequest(ASK, **{"max_tokens": 24, "temperature": 0, **more})


def llama_cpp(folder: Path) -> dict[str, Any]:
    template = folder / "with tools.jinja"
    template.write_text(WITH_TOOLS)
    args = ["--no-webui", "--chat-template-file", str(template)]
    return {
        "source": str(embedded_llm_path()),
        "launch": {"preset": "llama_cpp", "env": _beside(str(LLAMA)), "args": args},
    }


def vllm(folder: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    path = embedded_llm_path()
    from_gguf(path).save_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    tokens.chat_template = WITH_TOOLS
    tokens.save_pretrained(folder)
    small = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "4"]
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--tool-strict-level", "parameter"]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return {
        "source": str(folder),
        "launch": {"preset": "vllm", "env": {**_beside(str(VLLM)), **offline}, "args": [*small, *tools]},
    }


def _beside(executable: str) -> dict[str, str]:
    """An environment in which the server is found."""
    return {"PATH": f"{Path(executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        pytest.param(llama_cpp, marks=pytest.mark.skipif(not LLAMA, reason="no llama-server (LLAMA_SERVER)")),
        pytest.param(vllm, marks=pytest.mark.skipif(not VLLM, reason="no vllm (VLLM)")),
    ],
)
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerBackend]:
    given = request.param(tmp_path_factory.mktemp("model"))
    given["launch"]["start_timeout_s"] = 280
    settings = ModelSettings.model_validate(
        {"backend": "server", "threads": 2, "context_window": WINDOW, **given}
    )
    backend = ServerBackend("m", settings, probe_s=0.5, first_delay_s=0.01)
    await asyncio.to_thread(backend.start)
    yield backend
    await asyncio.to_thread(backend.stop)


def preset(server: ServerBackend) -> str:
    return server._settings.launch.preset


async def chunks_of(server: ServerBackend, request: ChatRequest) -> list[ChatChunk]:
    return [chunk async for chunk in server.stream(request)]


async def text_of(server: ServerBackend, request: ChatRequest) -> str:
    return "".join(chunk.text for chunk in await chunks_of(server, request))


async def test_it_answers_in_pieces_and_counts_what_it_used(server: ServerBackend):
    chunks = await chunks_of(server, asking())
    assert sum(bool(chunk.text) for chunk in chunks) > 1
    last = chunks[-1]
    assert last.finish_reason in ("stop", "length")
    assert last.usage is not None
    assert last.usage.input_tokens > 4
    assert 0 < last.usage.output_tokens <= 24
    assert await text_of(server, asking()) == "".join(chunk.text for chunk in chunks), "greedy"
    assert (await server.info()).context_window == WINDOW
    assert await server.count_tokens(ASK) > 0


async def test_equal_seeds_draw_the_same(server: ServerBackend):
    drawn = [await text_of(server, asking(temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


async def test_a_schema_holds_the_answer(server: ServerBackend):
    text = await text_of(server, asking(response_format=FORM, max_tokens=200))
    assert json.loads(text)["city"] in ("Paris", "Rome")


async def test_a_choice_holds_the_answer(server: ServerBackend):
    form = {"type": "choice", "choice": ["yes", 'no "never"']}
    assert await text_of(server, asking(response_format=form)) in form["choice"]


async def test_a_regex_holds_the_answer_or_is_refused(server: ServerBackend):
    asked = asking(response_format={"type": "regex", "regex": "[0-9]{3}"})
    if preset(server) == "llama_cpp":
        with pytest.raises(InvalidInput, match="regex"):
            await text_of(server, asked)
    else:
        text = await text_of(server, asked)
        assert (len(text), text.isdigit()) == (3, True)


async def test_a_tool_that_must_be_called_is_called(server: ServerBackend):
    asked = asking(tools=(CLOCK, WEATHER), tool_choice="get_weather", max_tokens=200)
    (call,) = [call for chunk in await chunks_of(server, asked) for call in chunk.tool_calls]
    assert call.name == "get_weather"
    assert call.arguments["city"] in ("Paris", "Rome")


async def test_how_tokens_are_drawn_reaches_it(server: ServerBackend):
    drawn = {
        await text_of(server, asking(temperature=2.0, seed=n, sampling=Sampling(top_k=1))) for n in range(3)
    }
    assert len(drawn) == 1, "the likeliest token is the only one"
    plain = await text_of(server, asking(max_tokens=60))
    varied = await text_of(server, asking(max_tokens=60, sampling=Sampling(repetition_penalty=1.9)))
    assert plain != varied


async def test_log_probabilities_come_back(server: ServerBackend):
    chunks = await chunks_of(server, asking(max_tokens=3, logprobs=2))
    told = [logprob for chunk in chunks for logprob in chunk.logprobs]
    assert len(told) == 3
    assert all(one.logprob <= 0 and len(one.top) == 2 for one in told)


async def test_what_is_too_long_is_said_to_be(server: ServerBackend):
    long = (ChatMessage("user", "word " * 3 * WINDOW),)
    with pytest.raises(ContextLengthExceeded):
        await chunks_of(server, ChatRequest(long, max_tokens=4))


async def test_one_that_dies_is_started_again(server: ServerBackend):
    assert server._process is not None
    keeper = psutil.Process(server._process.pid)
    for process in keeper.children(recursive=True):
        # Another's end may have been its end as well.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    await eventually(
        lambda: server.stats()["starts"] >= 2 and server._client is not None, "another server", 280
    )
    assert await text_of(server, asking())
