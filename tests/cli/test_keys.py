"""`manta keys` as processes: made before there is a platform, listed without secrets, turned and ended."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from coordinator.api_keys import holds, read_key_text
from coordinator.store.journal import Journal
from manta.clock import SystemClock
from tests.cli.test_gc import manta


async def _holds(home: Path, text: str) -> bool:
    clock = SystemClock()
    journal = await Journal.open(f"sqlite:///{home}/journal.db", clock)
    shown = read_key_text(text)
    assert shown is not None
    on_file = await journal.keys.find(shown.id)
    await journal.close()
    return holds(on_file, shown.secret, clock.now())


def holds_now(home: Path, text: str) -> bool:
    return asyncio.run(_holds(home, text))


def test_the_life_of_a_key(tmp_path: Path):
    made = manta(
        tmp_path, "keys", "create", "ann", "--scope", "chat", "--tokens-per-day", "500", "--expires-days", "2"
    )
    text = made.stdout.strip()
    assert re.fullmatch(r"mk_[0-9a-f]{16}_[\w-]{43}\n", made.stdout)
    assert "not shown again" in made.stderr
    assert holds_now(tmp_path, text)

    listed = manta(tmp_path, "keys", "list", "--json")
    (key,) = json.loads(listed.stdout)
    assert (key["principal"], key["tenant"], key["scopes"], key["state"]) == (
        "ann",
        "default",
        ["chat"],
        "valid",
    )
    assert key["limits"]["tokens_per_day"] == 500
    assert key["today"] == {"requests": 0, "tokens": 0, "money": 0.0}
    assert key["expires_at"] - key["created_at"] == pytest.approx(2 * 86400, abs=120)
    plain = manta(tmp_path, "keys", "list").stdout
    assert key["id"] in plain
    assert not read_key_text(plain)
    assert text.rpartition("_")[2] not in plain + listed.stdout

    turned = json.loads(manta(tmp_path, "keys", "rotate", key["id"], "--grace-hours", "0", "--json").stdout)
    assert (holds_now(tmp_path, text), holds_now(tmp_path, turned["key"])) == (False, True)
    assert manta(tmp_path, "keys", "revoke", key["id"]).stdout == f"revoked: {key['id']} of ann\n"
    assert not holds_now(tmp_path, turned["key"])
    again = manta(tmp_path, "keys", "rotate", key["id"])
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert again.stderr.startswith("error: key_revoked")


def test_the_first_key_makes_a_home_for_its_owner_alone(tmp_path: Path):
    home = tmp_path / "new" / "home"
    made = manta_of(home, tmp_path, "keys", "create", "ann")
    assert made.returncode == 0
    assert home.stat().st_mode & 0o777 == 0o700


def manta_of(home: Path, folder: Path, *arguments: str):
    return manta(folder, "--home", str(home), *arguments)


def test_refusals_are_one_line(tmp_path: Path):
    for words, code in (
        (("list",), "not_found"),
        (("revoke", "0123456789abcdef"), "not_found"),
        (("create", "local"), "invalid_input"),
        (("create", "ann", "--scope", "everything"), "invalid_input"),
    ):
        ended = manta(tmp_path, "keys", *words)
        assert (ended.returncode, ended.stdout) == (1, ""), words
        assert ended.stderr.startswith(f"error: {code}: "), ended.stderr
        assert ended.stderr.count("\n") == 1
