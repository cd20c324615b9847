"""Forms are compiled once, and what cannot be compiled or followed is an error that says why."""

import pytest

from manta.errors import InvalidInput, ModelError
from serve_app.engine.bundle import ModelBundle
from serve_app.engine.engine import Engine, EngineConfig, GenerationRequest, SamplingParams
from serve_app.engine.forms import form as forms
from serve_app.engine.forms.compiler import FormCompiler
from serve_app.engine.forms.form import Form
from tests.engine.support import Collector, needs

pytestmark = needs("llguidance")


@pytest.fixture
def compiler(small: ModelBundle) -> FormCompiler:
    return FormCompiler(small.tokenizer, small.model.spec.vocab_size, small.end_ids)


@pytest.mark.parametrize(
    ("form", "cause"),
    [
        (forms.json_schema({"type": "bogus"}), "Invalid type: bogus"),
        (forms.json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (forms.json_schema({"$ref": "http://localhost/x"}), "does not fetch"),
        (forms.json_schema({"enum": []}), ""),
        (forms.regex("a(b"), "unclosed group"),
        (forms.lark("no grammar"), ""),
        (forms.lark("start: missing"), "missing"),
    ],
)
def test_broken_forms_are_refused_with_their_cause(small: ModelBundle, form: Form, cause: str) -> None:
    engine = Engine(small, EngineConfig(dtype="float32", kv_tokens=4096))
    with pytest.raises(InvalidInput, match="form of the answer") as raised:
        engine.prepare(form)
    assert cause in raised.value.message
    assert len(raised.value.message) < 400
    params = SamplingParams(max_tokens=300, form=form)
    with pytest.raises(InvalidInput):
        engine.submit(GenerationRequest("a", tuple(range(5, 25)), params), Collector())


def test_a_compiled_form_is_kept(
    small: ModelBundle, compiler: FormCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    whole = FormCompiler._compile
    monkeypatch.setattr(
        FormCompiler, "_compile", lambda self, grammar: compiled.append(grammar) or whole(self, grammar)
    )
    first, second = (compiler.guide(forms.choice(["x", "y"])) for _ in range(2))
    assert len(compiled) == 1
    first.accept(small.tokenizer.encode("x")[0])
    assert first.stopped
    assert not second.stopped


def test_a_token_that_is_not_allowed_is_an_error(small: ModelBundle, compiler: FormCompiler) -> None:
    guide = compiler.guide(forms.choice(["x", "y"]))
    with pytest.raises(ModelError, match="form"):
        guide.accept(small.tokenizer.encode("z")[0])
