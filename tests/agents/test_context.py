"""The context of a task, the log in memory, the file store."""

import hashlib

import pytest

from agents.context import LocalArtifacts, LocalCallLog
from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import NotFound, StaleEpoch, StepError
from manta.messages import ArtifactRef, CallOutcome, ChatMessage, ChatRequest, Passage, Usage
from tests.agents.loop_support import Attempt, FewDocuments, task


async def test_usage_sums_over_models_tools_and_replays(tmp_path):
    log = LocalCallLog()
    model = ScriptedModel([ScriptedStep(text="a b")])
    for number in (1, 2):
        attempt = Attempt(model, log, tmp_path, number)
        async for _ in attempt.context.model.stream(ChatRequest((ChatMessage("user", "one two"),))):
            pass
        assert await attempt.context.call_tool("t", {}, _seven) == 7
        assert attempt.usage == Usage(input_tokens=3, output_tokens=2, model_calls=1, tool_calls=1)
        assert [d.replayed for d in attempt.done] == [number == 2] * 2


async def _seven() -> int:
    return 7


async def test_a_search_is_replayed_even_when_the_collection_changed(tmp_path):
    log = LocalCallLog()
    documents = FewDocuments([Passage("p1", "a.md", 0, 4, "text", 0.5)])
    first = Attempt(ScriptedModel([]), log, tmp_path, 1, documents)
    found = await first.context.documents.search("docs", "question", 4)
    documents.passages.clear()
    second = Attempt(ScriptedModel([]), log, tmp_path, 2, documents)
    assert await second.context.documents.search("docs", "question", 4) == found != []
    assert documents.searches == 1


async def test_a_search_inside_a_recorded_tool_is_covered_by_it(tmp_path):
    log = LocalCallLog()
    documents = FewDocuments([Passage("p1", "a.md", 0, 4, "text", 0.5)])
    for number in (1, 2):
        attempt = Attempt(ScriptedModel([]), log, tmp_path, number, documents)

        async def run(attempt: Attempt = attempt) -> int:
            return len(await attempt.context.documents.search("docs", "question"))

        assert await attempt.context.call_tool("find", {}, run) == 1
        assert attempt.usage.tool_calls == 1
    assert documents.searches == 1
    await attempt.context.documents.search("docs", "question")
    assert [call.name for call in log.calls(task().scope)] == ["find", "search_documents"]


async def test_tokens_go_to_the_sink(tmp_path):
    attempt = Attempt(ScriptedModel([]), LocalCallLog(), tmp_path)
    attempt.context.emit_token("a")
    attempt.context.emit_token("b")
    assert attempt.tokens == ["a", "b"]


async def test_the_log_refuses_an_outcome_without_a_beginning_and_a_fenced_one():
    log = LocalCallLog()
    with pytest.raises(StepError, match="never begun"):
        await log.finish(CallOutcome(task(2).scope, "model:x:0", {}))
    with pytest.raises(StaleEpoch):
        await log.finish(CallOutcome(task(1).scope, "model:x:0", {}))
    with pytest.raises(StaleEpoch):
        await log.finish(CallOutcome(task(9, epoch=0).scope, "model:x:0", {}))


async def test_a_file_is_kept_by_its_content(tmp_path):
    store = LocalArtifacts(tmp_path / "store")
    source = tmp_path / "chart.png"
    source.write_bytes(b"\x89PNG" * 500_000)
    ref = await store.put(source, "chart.png", "image/png")
    assert (ref.size, ref.sha256) == (2_000_000, hashlib.sha256(b"\x89PNG" * 500_000).hexdigest())
    assert await store.get(ref) == source.read_bytes()
    assert await store.put(source, "again.png", "image/png") == ArtifactRef(
        "again.png", ref.sha256, ref.size, "image/png"
    )
    files = [p for p in (tmp_path / "store").rglob("*") if p.is_file()]
    assert files == [tmp_path / "store" / ref.sha256[:2] / ref.sha256[2:4] / ref.sha256]


async def test_a_damaged_missing_or_odd_file_is_refused(tmp_path):
    store = LocalArtifacts(tmp_path / "store")
    source = tmp_path / "a.txt"
    source.write_text("right")
    ref = await store.put(source, "a.txt", "text/plain")
    store.place(ref.sha256).write_text("wrong")
    with pytest.raises(StepError, match="damaged"):
        await store.get(ref)
    with pytest.raises(NotFound):
        await store.get(ArtifactRef("b", "0" * 64, 1, "text/plain"))
    with pytest.raises(NotFound):
        await store.get(ArtifactRef("b", "../../etc/passwd", 1, "text/plain"))


async def test_a_file_that_cannot_be_read_leaves_nothing_behind(tmp_path):
    store = LocalArtifacts(tmp_path / "store")
    with pytest.raises(OSError, match="No such file"):
        await store.put(tmp_path / "missing", "x", "text/plain")
    assert list((tmp_path / "store").iterdir()) == []
