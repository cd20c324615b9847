"""The lines of a batch's file: every one is in one part, and what is wrong with a file is told by its line."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.errors import BudgetExceeded, InvalidInput, NotFound
from serve_app.gateway.openai import batch_lines
from serve_app.gateway.openai.batch_lines import (
    LINES_A_PART,
    MAX_PARTS,
    encoded,
    lines_of,
    not_done,
    not_done_bytes,
    planned,
    refused,
)
from tests.gateway.batch_support import CHAT, jsonl, line

END = st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"])


@given(st.lists(END, min_size=1, max_size=100), st.booleans(), st.booleans())
def test_the_parts_hold_every_line_once_in_order(ends: list[str], marked: bool, open_end: bool):
    text = "".join(json.dumps(line(f"r{n}")) + end for n, end in enumerate(ends))
    data = (("\ufeff" if marked else "") + (text.rstrip() if open_end else text)).encode()
    plan = planned(data, CHAT)
    assert (plan.faults, plan.total) == ([], len(ends))
    parts = [lines_of(data[cut.start : cut.end]) for cut in plan.cuts]
    assert [len(part) for part in parts] == [cut.lines for cut in plan.cuts]
    assert max(map(len, parts)) <= LINES_A_PART
    assert [one.custom_id for part in parts for one in part] == [f"r{n}" for n in range(len(ends))]


def test_long_files_have_longer_parts_and_long_lines_shorter_ones(monkeypatch):
    many = jsonl(*(line(f"r{n}") for n in range(500)))
    monkeypatch.setattr(batch_lines, "MAX_PARTS", 4)
    assert [cut.lines for cut in planned(many, CHAT).cuts] == [125] * 4
    monkeypatch.setattr(batch_lines, "PART_BYTES", 100)
    assert {cut.lines for cut in planned(many, CHAT).cuts} == {1}
    assert MAX_PARTS < 10_000, "a fan-out takes no more"


WRONG: list[tuple[Any, str]] = [
    ("{", "invalid_json_line"),
    ("[]", "invalid_json_line"),
    ('{"custom_id": "a", "custom_id": "b"}', "invalid_json_line"),
    ('{"custom_id": NaN}', "invalid_json_line"),
    ('{"custom_id": "\\ud800"}', "invalid_json_line"),
    ("[" * 10_000, "invalid_json_line"),
    ({**line("a"), "custom_id": ""}, "invalid_custom_id"),
    ({**line("a"), "custom_id": 1}, "invalid_custom_id"),
    ({**line("a"), "custom_id": "x" * 513}, "invalid_custom_id"),
    ({**line("a"), "method": "GET"}, "invalid_method"),
    ({**line("a"), "url": "/v1/responses"}, "invalid_url"),
    ({**line("a"), "body": []}, "invalid_body"),
    ({}, "invalid_custom_id"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_fault_is_told_by_its_line(number: int):
    wrong, code = WRONG[number]
    plan = planned(jsonl(line("first"), wrong, line("last")), CHAT)
    assert [(fault["code"], fault["line"]) for fault in plan.faults] == [(code, 2)]
    assert (plan.total, plan.cuts) == (3, [])


def test_bytes_that_are_no_text_are_a_fault():
    assert planned(b"\xff\xfe\n", CHAT).faults[0]["code"] == "invalid_json_line"


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\t\n"])
def test_a_file_without_lines_is_a_fault(data: bytes):
    assert [fault["code"] for fault in planned(data, CHAT).faults] == ["empty_file"]


def test_too_much_is_told_and_no_endless_list_of_faults(monkeypatch):
    monkeypatch.setattr(batch_lines, "MAX_LINES", 3)
    assert planned(jsonl(*(line(f"r{n}") for n in range(4))), CHAT).faults[0]["code"] == "too_many_lines"
    monkeypatch.setattr(batch_lines, "MAX_LINES", 1000)
    assert len(planned(b"x\n" * 500, CHAT).faults) == batch_lines.MAX_FAULTS
    monkeypatch.setattr(batch_lines, "MAX_JSON_BYTES", 10)
    assert planned(jsonl(line("a")), CHAT).faults[0]["code"] == "invalid_json_line"


@pytest.mark.parametrize(
    ("error", "status"), [(InvalidInput("no"), 400), (NotFound("none"), 404), (BudgetExceeded("over"), 429)]
)
def test_a_refusal_has_the_status_of_its_route(error: Any, status: int):
    told = refused("a", error)
    assert (told["response"]["status_code"], told["error"]) == (status, None)
    assert told["response"]["body"]["error"]["code"] == error.code


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40),
        min_size=1,
        max_size=40,
        unique=True,
    )
)
def test_the_size_of_what_was_not_done_is_known_without_reading_it(names: list[str]):
    data = jsonl(*(line(name) for name in names))
    for cut in planned(data, CHAT).cuts:
        part = lines_of(data[cut.start : cut.end])
        told = encoded([not_done(one.custom_id, "timeout", 'tüo "late"') for one in part])
        assert not_done_bytes(cut.lines, cut.id_bytes, "timeout", 'tüo "late"') == len(told)


def test_what_was_not_done_is_told_alike_each_time():
    assert not_done("a", "c", "m") == not_done("a", "c", "m") != not_done("b", "c", "m")
