"""What docs/api.md says of the routes under /v1: its examples are taken, and its fields are those there are."""

import re

from pydantic import BaseModel

from serve_app.gateway.openai.bodies import Hints, RunOptions, Sampled
from serve_app.gateway.openai.chat import ChatBody
from serve_app.gateway.openai.completions import MAX_PROMPTS, CompletionBody
from serve_app.gateway.openai.embeddings import EmbeddingBody
from serve_app.gateway.openai.responses import ResponseBody
from tests.docs.pages import ROOT, tables
from tests.gateway.openai_support import SaysChunks, text
from tests.gateway.platform import BASE
from tests.gateway.serving import served_apart

PAGE = ROOT / "docs/api.md"
TEXT = PAGE.read_text()
OPENAIS_OWN = {"temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias"}


def fields(kind: type[BaseModel]) -> set[str]:
    return set(kind.model_fields)


def test_the_fields_beside_openais_are_listed():
    rows = tables(PAGE, "Beside OpenAI's")[0]
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert listed == (fields(Sampled) - fields(Hints) - OPENAIS_OWN) | {"response_format", "manta"}
    (told,) = (row[1] for row in rows if "`manta`" in row[0])
    assert fields(RunOptions) <= set(re.findall(r"`([^`]+)`", told))


def test_what_is_refused_is_named():
    for body in (ChatBody, CompletionBody, ResponseBody, EmbeddingBody):
        for name in body.refused:
            assert f"`{name}`" in TEXT, name
    assert f"up to {MAX_PROMPTS} of either" in TEXT


def test_the_examples_run(tmp_path, capsys):
    model = SaysChunks(*text("It ", "is so."))
    examples = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "openai" in code]
    assert len(examples) == 2
    with served_apart(tmp_path, {"smollm2": model}) as platform:
        for code in examples:
            code = code.replace(BASE.replace("127.0.0.1", "localhost"), platform.url)
            exec(compile(code, "docs/api.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("It is so.\nresearch_report: run ")
    assert "work: started\nwork: done\n" in out
    assert out.rstrip().endswith("How fast does the ice of Greenland melt?")
    assert model.requests[0].response_format == {"type": "regex", "regex": "[A-Z][a-z ,]{10,200}\\."}
