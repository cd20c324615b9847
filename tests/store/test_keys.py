"""API keys in the journal: made, shown once, turned, revoked; and what goes over their names is added up."""

import asyncio
import dataclasses
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text

from coordinator.api_keys import DEFAULT_SCOPES, digest, holds, read_key_text
from coordinator.store.engine import open_storage
from coordinator.store.journal import Journal
from coordinator.store.key_records import KeyLimits, KeyUsage, Meter, NewKey, Spent
from coordinator.store.key_schema import api_keys
from coordinator.store.keys import any_key
from coordinator.store.read_only import reading
from coordinator.store.records import RunChange
from manta.clock import ManualClock
from manta.errors import Conflict, InvalidInput, NotFound
from manta.messages import Usage
from tests.store.support import OTHER, TENANT, a_run, at_work, intent, outcome, scope

DAY = 86400.0
BUDGET = KeyLimits(tokens_per_month=10_000)


async def holds_now(journal: Journal, clock: ManualClock, key: NewKey) -> bool:
    shown = read_key_text(key.text)
    assert shown is not None
    return holds(await journal.keys.find(shown.id), shown.secret, clock.now())


async def test_a_key_is_told_once_and_only_its_hash_is_kept(journal: Journal, clock: ManualClock, url: str):
    limits = KeyLimits(requests_per_minute=60, money_per_day=1.5)
    made = await journal.keys.create(TENANT, "ann", ("chat", "admin"), clock.now() + DAY, limits)
    shown = read_key_text(made.text)

    assert shown is not None
    assert shown.id == made.record.id
    assert dataclasses.replace(made.record, id="") == dataclasses.replace(
        made.record, id="", principal="ann", scopes=("chat", "admin"), limits=limits, tenant=TENANT
    )
    assert (made.record.created_at, made.record.expires_at) == (clock.now(), clock.now() + DAY)
    assert await journal.keys.list() == [made.record] == [await journal.keys.get(shown.id)]
    assert await holds_now(journal, clock, made)
    with reading(url) as connection:
        kept = str(connection.execute(select(api_keys)).all())
    assert shown.secret not in kept
    assert digest(shown.secret) in kept


async def test_keys_are_listed_by_tenant_the_newest_first(journal: Journal, clock: ManualClock):
    assert not await journal.keys.any()
    first = await journal.keys.create(TENANT, "ann")
    await clock.advance(1)
    second = await journal.keys.create(TENANT, "bob")
    third = await journal.keys.create(OTHER, "ann")

    assert await journal.keys.any()
    assert first.record.scopes == DEFAULT_SCOPES
    assert await journal.keys.list(TENANT) == [second.record, first.record]
    assert await journal.keys.list(OTHER) == [third.record]
    assert await journal.keys.list(TENANT, 1, 1) == [first.record]
    assert len({made.text for made in (first, second, third)}) == 3


async def test_a_turned_key_has_a_new_secret_and_the_old_one_for_a_while(
    journal: Journal, clock: ManualClock
):
    old = await journal.keys.create(TENANT, "ann")
    new = await journal.keys.rotate(old.record.id, 60)

    assert new.record.rotated_until == clock.now() + 60
    assert (await holds_now(journal, clock, old), await holds_now(journal, clock, new)) == (True, True)
    await clock.advance(60)
    assert (await holds_now(journal, clock, old), await holds_now(journal, clock, new)) == (False, True)
    at_once = await journal.keys.rotate(old.record.id, 0)
    assert [await holds_now(journal, clock, key) for key in (old, new, at_once)] == [False, False, True]
    with pytest.raises(InvalidInput):
        await journal.keys.rotate(old.record.id, -1)


async def test_a_revoked_key_holds_no_more_and_frees_its_name(journal: Journal, clock: ManualClock):
    made = await journal.keys.create(TENANT, "ann")
    turned = await journal.keys.rotate(made.record.id, DAY)
    gone = await journal.keys.revoke(made.record.id)

    assert gone.state(clock.now()) == "revoked"
    assert not await holds_now(journal, clock, made)
    assert not await holds_now(journal, clock, turned)
    await clock.advance(5)
    assert await journal.keys.revoke(made.record.id) == gone
    for change in (journal.keys.rotate(gone.id), journal.keys.expire(gone.id, None)):
        with pytest.raises(Conflict) as refused:
            await change
        assert refused.value.code == "key_revoked"
    again = await journal.keys.create(TENANT, "ann")
    assert await holds_now(journal, clock, again)
    assert [key.id for key in await journal.keys.list(TENANT)] == [again.record.id, gone.id]


async def test_a_key_expires(journal: Journal, clock: ManualClock):
    made = await journal.keys.create(TENANT, "ann", expires_at=clock.now() + 10)
    await clock.advance(9)
    assert await holds_now(journal, clock, made)
    await clock.advance(1)
    assert not await holds_now(journal, clock, made)
    assert (await journal.keys.get(made.record.id)).state(clock.now()) == "expired"
    await journal.keys.expire(made.record.id, None)
    assert await holds_now(journal, clock, made)


async def test_one_name_is_one_key(journal: Journal):
    await journal.keys.create(TENANT, "ann")
    with pytest.raises(Conflict) as refused:
        await journal.keys.create(TENANT, "ann")
    assert refused.value.code == "key_exists"
    await journal.keys.create(OTHER, "ann")
    assert len(await journal.keys.list()) == 2


async def test_what_is_forgotten_was_never_there(journal: Journal, url: str):
    made = await journal.keys.create(TENANT, "ann")
    with reading(url) as connection:
        assert any_key(connection)
    await journal.keys.revoke(made.record.id)
    with reading(url) as connection:
        assert not any_key(connection)
    assert await journal.keys.any()
    await journal.keys.forget(made.record.id)
    assert not await journal.keys.any()
    assert await journal.keys.find(made.record.id) is None


async def test_what_is_not_there(journal: Journal):
    for key in ("0" * 16, "", "a\0b", "x" * 300, "é"):
        for call in (journal.keys.get, journal.keys.rotate, journal.keys.revoke, journal.keys.forget):
            with pytest.raises(NotFound):
                await call(key)
        with pytest.raises(NotFound):
            await journal.keys.expire(key, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"principal": ""},
        {"principal": "local"},
        {"principal": "a\nb"},
        {"scopes": ()},
        {"scopes": ("chat", "everything")},
        {"expires_at": 5.0},
        {"expires_at": float("nan")},
        {"expires_at": float("inf")},
        {"limits": KeyLimits(requests_per_minute=0)},
        {"limits": KeyLimits(tokens_per_day=-1)},
        {"limits": KeyLimits(money_per_month=float("nan"))},
        {"limits": KeyLimits(money_per_month=1e300)},
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused(journal: Journal, wrong: dict):
    with pytest.raises(InvalidInput):
        await journal.keys.create(**{"tenant": TENANT, "principal": "ann", **wrong})
    assert not await journal.keys.any()


async def test_totals_of_gateways_add_up_and_a_repeated_word_counts_once(
    journal: Journal, clock: ManualClock
):
    made = await journal.keys.create(TENANT, "ann", limits=BUDGET)
    today = datetime.fromtimestamp(clock.now(), UTC).date()
    first = today.replace(day=1).isoformat()

    def told(day: str, requests: int, tokens: int) -> Meter:
        return Meter(TENANT, "ann", day, requests, Spent(tokens, tokens * 2))

    for _ in range(2):
        await journal.keys.record("a", [told(today.isoformat(), 3, 30), told(first, 1, 5)], {})
    await journal.keys.record("b", [told(today.isoformat(), 1, 7)], {})
    # One that was overtaken on its way, another's, and last month's.
    await journal.keys.record("a", [told(today.isoformat(), 2, 20)], {})
    await journal.keys.record("b", [Meter(OTHER, "ann", first, 9, Spent(9, 9)), told("2023-10-31", 9, 9)], {})

    day, month = await journal.keys.usage(TENANT, "ann")
    assert (day, month) == (KeyUsage(4, Spent(37, 74)), KeyUsage(5, Spent(42, 84)))
    found = await journal.keys.find(made.record.id, "a")
    assert found is not None
    assert (found.today, found.this_month) == (Spent(7, 14), Spent(7, 14))


async def test_a_names_runs_count_as_they_go(journal: Journal, clock: ManualClock):
    made = await journal.keys.create(TENANT, "ann", limits=BUDGET)
    run = await at_work(journal, principal="ann")
    await journal.create_run(a_run(principal="ann"))
    await at_work(journal, principal="local")
    await at_work(journal, principal="ann", tenant=OTHER)
    assert await journal.keys.running(TENANT, "ann") == 2

    await journal.begin_call(intent(scope(run)))
    await journal.finish_call(outcome(scope(run), usage=Usage(10, 5, 2, 1, 0, 700)))
    found = await journal.keys.find(made.record.id)
    assert found is not None
    assert (found.today, found.this_month) == (Spent(15, 700), Spent(15, 700))
    await journal.commit(run.id, run.epoch, [RunChange("success")])
    assert await journal.keys.running(TENANT, "ann") == 1

    # 14 November 2023, 22:13: two hours on it is another day of the same month.
    await clock.advance(2 * 3600)
    found = await journal.keys.find(made.record.id)
    assert found is not None
    assert (found.today, found.this_month) == (Spent(), Spent(15, 700))


async def test_without_a_budget_nothing_is_added_up(journal: Journal):
    made = await journal.keys.create(TENANT, "ann")
    run = await at_work(journal, principal="ann")
    await journal.begin_call(intent(scope(run)))
    await journal.finish_call(outcome(scope(run)))
    found = await journal.keys.find(made.record.id)
    assert found is not None
    assert found.this_month == Spent()


async def test_when_a_key_was_used_only_grows(journal: Journal, clock: ManualClock):
    made = await journal.keys.create(TENANT, "ann")
    for at, kept in ((5.0, 5.0), (9.0, 9.0), (7.0, 9.0)):
        await journal.keys.record("a", [], {made.record.id: at, "0" * 16: at})
        assert (await journal.keys.get(made.record.id)).last_used_at == kept


async def test_runs_of_a_name_are_found_by_their_index(journal: Journal, url: str):
    # Among few rows, or without statistics, PostgreSQL takes whatever index it meets first.
    crowd = [a_run(principal="local") for _ in range(400)] + [a_run(principal="ann") for _ in range(4)]
    await asyncio.gather(*(journal.create_run(run) for run in crowd))
    storage = open_storage(url)
    with storage.write.begin() as connection:
        connection.execute(text("ANALYZE"))
    storage.dispose()
    query = (
        "SELECT sum(input_tokens) FROM runs WHERE principal <> 'local' AND tenant = 'acme'"
        " AND principal = 'ann' AND created_at >= 5"
    )
    with reading(url) as connection:
        if connection.dialect.name != "sqlite":
            connection.execute(text("SET enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        plan = " ".join(str(row) for row in connection.execute(text(f"{explain} {query}")))
    assert "ix_runs_by_key" in plan
