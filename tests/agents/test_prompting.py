"""Prompt files: format, filling, and fitting passages into a budget."""

import pytest

from agents.prompting import PROMPTS, fit_passages, load_prompt, parse_prompt, token_counter
from agents.scripted import ScriptedModel
from manta.errors import InvalidInput, NotFound
from manta.messages import Passage

TEXT = """---
name: demo
version: 2
description: For the test.
variables: [question, items]
---
# system
You are brief.

## A heading is text
# user
Example
# assistant
Yes
# user
{% for item in items %}
- {{ item }}
{% endfor %}
{{ question }}
"""


def test_sections_become_messages():
    prompt = parse_prompt(TEXT, "demo")
    messages = prompt.messages(question="Why {{ 1 + 1 }}?", items=["a", "b"])
    assert [m.role for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[0].content == "You are brief.\n\n## A heading is text"
    assert messages[-1].content == "- a\n- b\nWhy {{ 1 + 1 }}?"
    assert (prompt.revision, prompt.description) == (2, "For the test.")


def test_the_version_is_the_hash_of_the_text():
    prompt = parse_prompt(TEXT, "demo")
    assert prompt.version == parse_prompt(TEXT, "demo").version
    assert prompt.version != parse_prompt(TEXT.replace("brief", "long"), "demo").version


def test_missing_and_unknown_variables_are_named():
    prompt = parse_prompt(TEXT, "demo")
    with pytest.raises(InvalidInput, match="needs the variable 'items'"):
        prompt.messages(question="x")
    with pytest.raises(InvalidInput, match="no variable 'extra'"):
        prompt.messages(question="x", items=[], extra=1)


def test_an_attribute_that_is_not_there_is_an_error_and_the_sandbox_holds():
    text = TEXT.replace("{{ question }}", "{{ question.text }}")
    with pytest.raises(InvalidInput, match="cannot be filled"):
        parse_prompt(text, "demo").messages(question="x", items=[])
    escape = TEXT.replace("{{ question }}", "{{ question.__class__.__mro__ }}")
    with pytest.raises(InvalidInput, match="cannot be filled"):
        parse_prompt(escape, "demo").messages(question="x", items=[])


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("---\nname", "name", "front matter"),
        ("name: demo", "name: other", "names 'other'"),
        ("version: 2", "version: two", "version"),
        ("version: 2", "version: [", "not YAML"),
        ("description: For the test.", "author: me", "description"),
        ("[question, items]", "[question]", "'items' is used but not declared"),
        ("[question, items]", "[question, items, more]", "'more' is used but not declared"),
        ("# system\n", "", "must begin with"),
        ("# assistant\nYes\n# user\n", "# assistant\n", "last section"),
        ("# assistant", "# system", "at most once"),
        ("{% endfor %}", "", "template error"),
    ],
)
def test_a_broken_file_is_refused_with_its_cause(old, new, cause):
    assert old in TEXT
    with pytest.raises(InvalidInput, match="demo") as caught:
        parse_prompt(TEXT.replace(old, new), "demo")
    assert cause in str(caught.value)


def test_loading_from_a_folder(tmp_path):
    (tmp_path / "demo.md").write_text(TEXT)
    assert load_prompt("demo", tmp_path).name == "demo"
    for name in ("absent", "../demo", "README"):
        with pytest.raises(NotFound):
            load_prompt(name, tmp_path)
    (tmp_path / "latin.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="UTF-8"):
        load_prompt("latin", tmp_path)


def test_every_built_in_prompt_loads():
    for file in PROMPTS.glob("*.md"):
        if file.name != "README.md":
            assert load_prompt(file.stem).sections


def _passage(number: int, words: int) -> Passage:
    text = " ".join(f"w{number}" for _ in range(words))
    return Passage(f"p{number}", "doc", 10, 10 + len(text), text)


async def test_passages_fit_best_first_and_long_ones_are_passed_over():
    count = token_counter(ScriptedModel([]))
    passages = [_passage(1, 40), _passage(2, 500), _passage(3, 30), _passage(4, 50)]
    kept = await fit_passages(passages, 41 + 31, count)
    assert [p.id for p in kept] == ["p1", "p3"]
    assert await fit_passages([], 10, count) == ()


async def test_a_single_long_passage_is_cut_to_a_verbatim_prefix():
    count = token_counter(ScriptedModel([]))
    (cut,) = await fit_passages([_passage(1, 500)], 100, count)
    whole = _passage(1, 500)
    assert whole.text.startswith(cut.text)
    assert cut.end - cut.start == len(cut.text)
    assert 80 < await count(cut.text) <= 100
    assert await fit_passages([_passage(1, 500)], 3, count) == ()
