"""Grounding: what a passage supports and what it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.grounding import PLAIN, STRICT, Rules, ground, judge
from agents.sentences import clean, is_prose, numbers, split_sentences, stem
from manta.messages import Passage

TIDES = (
    "Spring tides occur twice each lunar month, when the sun, moon and earth line up. "
    "The harbour gate closes 45 minutes before high water and it is never opened in a storm. "
    "Lower water levels reduce the load on the pumps at the cost of a longer wait for ships."
)
PUMPS = (
    "max_flow_rate: The number of litres per second required by the pump's controller. "
    "The PumpController class compares the level with target_level and adjusts the number of running pumps."
)


def passage(key: str, text: str) -> Passage:
    return Passage(key, f"{key}.md", 0, len(text), text)


READ = [passage("tides", TIDES), passage("pumps", PUMPS)]


@pytest.mark.parametrize(
    ("sentence", "cited"),
    [
        ("Spring tides occur twice each lunar month.", "tides"),
        ("The harbour gate closes 45 minutes before high water.", "tides"),
        ("Lower water levels reduce the load on the pumps.", "tides"),
        ("The PumpController class adjusts the number of running pumps.", "pumps"),
    ],
)
def test_faithful_sentences_stand_and_cite_their_passage(sentence: str, cited: str) -> None:
    assert judge(sentence, READ).citations == (cited,)


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("The harbour gate closes 60 minutes before high water.", "number 60"),
        ("The harbour gate closes 45 minutes after high water.", "after"),
        ("The harbour gate does not close 45 minutes before high water.", "negation"),
        ("The harbour gate is opened in a storm.", "negation"),
        ("Lower water levels increase the load on the pumps.", "increas"),
        ("The TideController class adjusts the number of running pumps.", "tidecontroller"),
        ("The level is compared with low_level by the PumpController class.", "low_level"),
        ("The number of running pumps is required by the harbour gate per second.", "words"),
        ("Neap tides were first described by a Greek sailor in the old harbour.", "words"),
    ],
)
def test_unfaithful_sentences_are_refused_with_the_reason(sentence: str, reason: str) -> None:
    verdict = judge(sentence, READ, PLAIN)
    assert not verdict.supported
    assert reason in verdict.reason


def test_a_small_models_invention_from_the_passages_own_words_is_refused() -> None:
    text = (
        "num_cpus: The number of CPUs required by the deployment's application per replica. "
        "Ray Serve keeps the number of replicas between the limits."
    )
    claim = "Ray Serve determines the number of replicas based on the number of CPUs required."
    assert not judge(claim, [passage("p", text)], STRICT).supported


def test_a_claim_may_not_be_put_together_from_distant_sentences() -> None:
    filler = " ".join(
        f"Sentence {word} fills the space in between here." for word in ("alpha", "beta", "gamma")
    )
    text = f"The north gate has a steel frame. {filler} The ferry leaves from the south pier."
    assert not judge(
        "The north gate has a steel ferry from the south pier.", [passage("p", text)], PLAIN
    ).supported


def test_sentences_that_lean_on_a_dropped_one_are_dropped_too() -> None:
    text = "The moon is made of harbour gates. It is never opened in a storm."
    grounded = ground(text, READ, PLAIN)
    assert grounded.kept == ()
    assert len(grounded.dropped) == 2


def test_marks_lists_and_links_of_the_model_are_taken_off() -> None:
    text = (
        "1. **Spring tides** occur twice each [lunar month](http://x.example) [7].\n- What are spring tides?"
    )
    grounded = ground(text, READ, echoes=["What are spring tides?"])
    assert [s.text for s in grounded.kept] == ["Spring tides occur twice each lunar month."]
    assert grounded.kept[0].citations == ("tides",)
    assert [d.reason for d in grounded.dropped] == ["repeats the question or the prompt"]


def test_nothing_is_supported_when_nothing_was_read() -> None:
    assert judge("Spring tides occur twice each lunar month.", []).reason == "no passage was read"


@given(st.integers(min_value=0, max_value=10**6), st.sampled_from(split_sentences(TIDES + " " + PUMPS)))
def test_a_number_that_no_passage_has_is_never_supported(number: int, sentence: str) -> None:
    claim = f"{sentence.rstrip('.')} {number}."
    if numbers(claim) - numbers(TIDES) - numbers(PUMPS):
        assert not judge(claim, READ, Rules(3, 0.0, 0.0)).supported


_words = st.sampled_from([*sorted(set(f"{TIDES} {PUMPS}".split())), "dragons", "17", "never", "not"])


@given(st.lists(st.lists(_words, min_size=1, max_size=14).map(" ".join), max_size=6))
def test_every_sentence_is_kept_with_citations_that_resolve_or_dropped_with_a_reason(
    lines: list[str],
) -> None:
    grounded = ground(". ".join(lines), READ, PLAIN)
    ids = {p.id for p in READ}
    assert all(s.citations and set(s.citations) <= ids for s in grounded.kept)
    assert all(d.reason for d in grounded.dropped)
    assert all(numbers(s.text) <= numbers(TIDES) | numbers(PUMPS) for s in grounded.kept)


@pytest.mark.parametrize("rules", [STRICT, PLAIN])
def test_a_verbatim_sentence_is_always_supported(rules: Rules) -> None:
    for p in READ:
        for sentence in split_sentences(p.text):
            assert judge(clean(sentence), READ, rules).supported, sentence


def test_sentences_split_at_ends_and_not_at_abbreviations_or_in_code() -> None:
    text = "Use it, e.g. Monday. It has 3.5 parts. `x` is one.\n\n```python\nprint(1)\n```\n- A list item\n- Another"
    assert split_sentences(text) == [
        "Use it, e.g. Monday.",
        "It has 3.5 parts.",
        "`x` is one.",
        "A list item",
        "Another",
    ]


def test_stems_join_forms_of_a_word() -> None:
    forms = [
        ["scale", "scales", "scaled", "scaling"],
        ["decide", "decision", "deciding"],
        ["compute", "computation"],
    ]
    for group in forms:
        assert len({stem(word) for word in group}) == 1, group
    assert stem("scale") != stem("scan")


def test_code_and_fragments_are_not_prose() -> None:
    assert is_prose("The gate closes before high water in winter.")
    assert not is_prose("def close(self, minutes=45): return self.gate.close(minutes).")
    assert not is_prose("closes before high water in the winter months.")
    assert not is_prose("Too short.")


def test_a_near_copy_that_swaps_a_name_is_dropped():
    passage = Passage(
        "p", "d", 0, 0, "It adjusts the replica count between min_replicas and max_replicas as it runs."
    )
    good = "It adjusts the replica count between min_replicas and max_replicas as it runs."
    bad = "It adjusts the replica count between max_replicas and max_replicas as it runs."
    assert judge(good, [passage]).supported
    assert "max_replicas more often" in judge(bad, [passage]).reason
