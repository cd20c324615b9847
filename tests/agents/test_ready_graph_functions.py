"""What the ready graphs decide without a model: templates, labels, verdicts, votes, questions, replies."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ready.support import DOES_NOT_KNOW, reply, standalone, turn
from agents.ready.templates import fill
from agents.ready.verdicts import criticism, label
from agents.ready.voting import MAX_SAMPLES, final, normal, seeds, vote
from manta.errors import InvalidInput
from manta.messages import Finding, Passage, Sentence, to_json

LABELS = ["explain", "compare", "write"]


def test_a_template_is_filled():
    variables = {"who": "Ada", "list": [1, "ü"], "braces": "{who}"}
    assert fill("{who}: {list} {{who}} {braces}", variables) == 'Ada: [1, "ü"] {who} {who}'
    assert fill(None, None, "why?") == "why?"
    assert fill("{question}!", {"question": "mine"}, "yours") == "mine!"
    assert fill("if (x) { return } {0} { who }", {}) == "if (x) { return } {0} { who }"
    with pytest.raises(InvalidInput) as caught:
        fill("{who} and {whom}", {"who": "Ada"})
    assert (caught.value.code, caught.value.fix) == ("missing_variable", "variables given: who")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("explain", "explain"),
        (" Compare.\nBecause it asks for two things", "compare"),
        ("**Write**", "write"),
        ("The kind is write.", "write"),
        ("explain or compare", "explain"),
        ("it could be explain or compare", "other"),
        ("do not explain", "other"),
        ("I think that you would like me to explain this to you", "other"),
        ("banana", "other"),
        ("explaining", "other"),
        ("", "other"),
        (None, "other"),
    ],
)
def test_a_label_is_read_or_the_default_taken(text: str | None, chosen: str):
    assert label(text, LABELS, "other") == chosen


@given(st.text())
def test_whatever_a_model_says_is_a_known_label(text: str):
    assert label(text, LABELS, "other") in {*LABELS, "other"}


@pytest.mark.parametrize(
    ("text", "satisfied"),
    [
        ("GOOD", True),
        (" **Good.** The answer is clear.", True),
        ("good!\nNothing to add", True),
        ("", True),
        (None, True),
        ("Good, but the second sentence is wrong.", False),
        ("Goods are missing.", False),
        ("It is good.", False),
        ("Say more.", False),
    ],
)
def test_only_the_word_itself_satisfies_the_critic(text: str | None, satisfied: bool):
    assert (criticism(text) == "") is satisfied


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First this.\nAnswer: 42", "42"),
        ("The answer is: Paris.\nBecause I know.", "Paris."),
        ("Answer: 3\nNo, wait.\nAnswer: 4\n", "4"),
        ("Let me think.\nIt is 7.", "It is 7."),
        ("Answer:\n", "Answer:"),
        ("...\n", ""),
        ("", ""),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str):
    assert final(text) == answer


@pytest.mark.parametrize(
    "same",
    [
        ["Paris", "paris.", "**Paris**", " PARIS! "],
        ["The moon", "a moon", "It is the moon."],
        ["$1,000.00", "1000", "1000.0"],
        ["four", "4", "Four."],
        ["12 apples", "12 Apples."],
        ["50%", "50%."],
    ],
)
def test_answers_that_differ_only_in_form_are_one(same: list[str]):
    assert len({normal(text) for text in same}) == 1


def test_answers_that_differ_are_not_one():
    assert len({normal(text) for text in ("4", "40", "4%", "-4 m", "4 km", "yes", "no")}) == 7


def test_the_majority_wins_and_is_reported():
    result = vote(["Answer: 4", "Answer: five", "so\nAnswer: 4.0", None, "  ", "Answer: four"])
    assert result == {
        "answer": "4",
        "votes": [
            {"answer": "4", "count": 3, "samples": [0, 2, 5]},
            {"answer": "five", "count": 1, "samples": [1]},
        ],
        "agreement": 0.75,
        "samples": 6,
        "unusable": 2,
        "tie": False,
    }


def test_of_as_many_votes_the_first_answer_wins_and_the_tie_is_told():
    result = vote(["Answer: b", "Answer: a", "Answer: A", "Answer: B"])
    assert (result["answer"], result["tie"], result["agreement"]) == ("b", True, 0.5)


def test_without_a_usable_answer_there_is_none():
    for answers in ([], [None, ""], ["...", "?!"]):
        result = vote(answers)
        assert (result["answer"], result["agreement"], result["votes"], result["tie"]) == (None, 0, [], False)


def test_only_choices_count_where_they_are_given():
    answers = [
        "Answer: yes",
        "I say yes because.\nAnswer: of course",
        "Answer: no way",
        "yes and no\nAnswer: hm",
        "banana",
    ]
    result = vote(answers, ["yes", "no", "no way"])
    assert [(v["answer"], v["count"]) for v in result["votes"]] == [("yes", 2), ("no way", 1)]
    assert result["unusable"] == 2


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=8))
def test_every_sample_is_counted_once(answers: list[str | None]):
    result = vote(answers)
    counted = [number for group in result["votes"] for number in group["samples"]]
    assert len(counted) == len(set(counted)) == result["samples"] - result["unusable"]
    assert sum(v["count"] for v in result["votes"]) == len(counted)
    assert (result["answer"] is None) is (not counted)
    assert result["votes"] == sorted(result["votes"], key=lambda v: -v["count"])


def test_seeds_are_distinct_and_bounded():
    assert seeds(3) == [1, 2, 3]
    assert seeds(0) == [1]
    assert len(seeds(10**9)) == MAX_SAMPLES


THREAD = {
    "id": "t",
    "messages": [
        {"role": "user", "content": "How do I charge the Glow lamp?"},
        {"role": "assistant", "content": "With the cable."},
    ],
    "values": {"collection": "manuals"},
}


def test_a_turn_without_a_thread():
    assert turn(question="Why?", collection="c") == {
        "question": "Why?",
        "history": "",
        "asked": [{"role": "user", "content": "Why?"}],
        "collection": "c",
    }


def test_a_turn_of_a_thread_leans_on_it_and_keeps_its_collection():
    new = {"role": "user", "content": "And how\nlong does it last?"}
    for messages in ([new], [*THREAD["messages"], new]):
        found = turn(messages=messages, thread=THREAD)
        assert found["question"] == "And how long does it last?"
        assert found["history"] == "User: How do I charge the Glow lamp?\nAssistant: With the cable."
        assert (found["asked"], found["collection"]) == ([], "manuals")
    assert turn(messages=[new], thread=THREAD, collection="other")["collection"] == "other"


def test_only_the_end_of_a_long_past_is_shown():
    past = [{"role": "user", "content": f"question {n} " + "word " * 500} for n in range(40)]
    found = turn(question="And now?", thread={"messages": past}, collection="c")
    alone = turn(question="How heavy is the Glow lamp?", thread={"messages": past}, collection="c")
    assert alone["history"] == ""
    assert found["history"].count("User: ") == 6
    assert "question 39" in found["history"]
    assert len(found["history"]) < 3000
    assert len(turn(question="long " * 900, collection="c")["question"]) <= 1000


@pytest.mark.parametrize(
    "given",
    [
        {"collection": "c"},
        {"messages": [], "collection": "c"},
        {"question": " ", "collection": "c"},
        {"messages": [{"role": "assistant", "content": "hi"}], "collection": "c"},
        {"thread": {"messages": [{"role": "user", "content": "old"}]}, "collection": "c"},
        {"question": "why?"},
        {"question": "why?", "thread": {"id": "t", "messages": [], "values": None}},
    ],
)
def test_a_turn_without_a_question_or_documents_is_refused(given: dict[str, Any]):
    with pytest.raises(InvalidInput) as caught:
        turn(**given)
    assert caught.value.fix


HISTORY = "User: How do I charge the Glow lamp?\nAssistant: With the cable, for 2 hours."


LEANING = "And how long does it shine?"
WITH_SUBJECT = "And how long does it shine? (charge Glow lamp)"


@pytest.mark.parametrize(
    ("question", "rewritten", "meant"),
    [
        (LEANING, "How long does the Glow lamp shine?", "How long does the Glow lamp shine?"),
        (LEANING, '"How long does the lamp shine?"\nUser: ok', "How long does the lamp shine?"),
        (LEANING, "What is the weather in Rome?", WITH_SUBJECT),
        (LEANING, "How long does the lamp shine in 2031?", WITH_SUBJECT),
        (LEANING, "", WITH_SUBJECT),
        (LEANING, None, WITH_SUBJECT),
        (LEANING, "How long does the lamp shine is what the user asks.", WITH_SUBJECT),
        (LEANING, "The lamp shines two hours. How long does the lamp shine?", WITH_SUBJECT),
        ("Can I return a broken heater?", "I like turtles", "Can I return a broken heater?"),
        ("Why?", "Why?", "Why? (charge Glow lamp)"),
    ],
)
def test_a_rewritten_question_is_taken_only_where_it_asks_the_same(
    question: str, rewritten: str | None, meant: str
):
    assert standalone(question, HISTORY, rewritten) == meant
    assert standalone(question, "", rewritten) == question


def test_a_reply_names_its_sources_and_leaves_out_what_has_none():
    passages = (
        Passage("p1", "lamp.md", 0, 9, "It shines for five hours."),
        Passage("p2", "lamp.md", 20, 30, "x"),
        Passage("p3", "lamp.md", 0, 9, "It shines for five hours."),
    )
    finding = Finding(
        "How long?",
        (
            Sentence("It shines for five hours.", ("p1", "p3")),
            Sentence("Invented.", ("p9",)),
            Sentence("Also invented."),
            Sentence("The cable is short.", ("p2", "p1")),
        ),
        passages,
    )
    found = reply(to_json(finding), [{"role": "user", "content": "How long?"}], "How long?", "manuals")
    assert found["answer"] == "It shines for five hours. [1] The cable is short. [2][1]"
    assert found["known"]
    assert [(s["id"], s["document"], s["start"]) for s in found["sources"]] == [
        ("1", "lamp.md", 0),
        ("2", "lamp.md", 20),
    ]
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"]
    assert (found["collection"], found["question"]) == ("manuals", "How long?")


def test_a_reply_says_when_it_does_not_know():
    found = reply(to_json(Finding("Why?", (Sentence("Invented."),))), [], "Why?", "c")
    assert (found["answer"], found["known"], found["sources"]) == (DOES_NOT_KNOW, False, [])
    assert found["messages"] == [{"role": "assistant", "content": DOES_NOT_KNOW}]
