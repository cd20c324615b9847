"""Background responses and batches on a real platform, with OpenAI's own client and a process that dies."""

import json
from collections.abc import Callable

import openai
import psutil
import pytest

from tests.live.conftest import LivePlatform, eventually

CHAT = "/v1/chat/completions"
LINES = 48


@pytest.fixture
def api(platform: LivePlatform) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{platform.url}/v1", api_key="none", max_retries=5)


def jsonl(model: str, lines: int = LINES) -> bytes:
    def line(number: int) -> str:
        messages = [{"role": "user", "content": f"Say the number {number}."}]
        body = {"model": model, "messages": messages, "max_tokens": 8}
        return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": body})

    return "".join(f"{line(number)}\n" for number in range(lines)).encode()


def begin(api: openai.OpenAI, content: bytes) -> str:
    file = api.files.create(file=("requests.jsonl", content), purpose="batch")
    return api.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id


def is_over(api: openai.OpenAI, batch: str) -> Callable[[], bool]:
    ends = ("completed", "failed", "expired", "cancelled")
    return lambda: api.batches.retrieve(batch).status in ends


def test_a_response_is_worked_on_in_the_background(api: openai.OpenAI):
    made = api.responses.create(
        model="smollm2", input="What is the capital of France?", background=True, temperature=0
    )
    eventually(lambda: api.responses.retrieve(made.id).status == "completed", "the response")
    done = api.responses.retrieve(made.id)
    assert "Paris" in done.output_text
    assert done.usage is not None
    assert done.usage.output_tokens > 0
    api.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        api.responses.retrieve(made.id)


def test_one_at_work_is_cancelled(api: openai.OpenAI):
    made = api.responses.create(model="slow", input="long", background=True, max_output_tokens=2000)
    eventually(lambda: api.responses.retrieve(made.id).status == "in_progress", "its beginning")
    api.responses.cancel(made.id)
    eventually(lambda: api.responses.retrieve(made.id).status == "cancelled", "its end")


def test_a_batch_is_answered_line_by_line(api: openai.OpenAI):
    batch = begin(
        api,
        jsonl("smollm2", 4)
        + b'{"custom_id": "bad", "method": "POST", "url": "%s", "body": {}}\n' % CHAT.encode(),
    )
    eventually(is_over(api, batch), "the batch")
    done = api.batches.retrieve(batch)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (4, 1)
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    answers = [json.loads(line) for line in api.files.content(done.output_file_id).text.splitlines()]
    assert {answer["custom_id"] for answer in answers} == {f"r{n}" for n in range(4)}
    assert all(answer["response"]["body"]["usage"]["completion_tokens"] > 0 for answer in answers)
    (error,) = [json.loads(line) for line in api.files.content(done.error_file_id).text.splitlines()]
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)


@pytest.mark.parametrize("process", ["ray::CoordinatorActor", "ray::AgentActor"])
def test_a_batch_outlives_what_works_on_it(platform: LivePlatform, api: openai.OpenAI, process: str):
    batch = begin(api, jsonl("slow"))
    eventually(lambda: api.batches.retrieve(batch).status == "in_progress", "its beginning")
    victims: list[psutil.Process] = platform.processes(process)
    assert victims, f"no process is called {process}"
    # Which of the agents is the worker, no title tells.
    for victim in victims:
        victim.kill()
        victim.wait(30)
    eventually(is_over(api, batch), "the batch")
    done = api.batches.retrieve(batch)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (LINES, 0)
