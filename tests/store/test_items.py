"""Items are found by namespace, key and fields, whatever these are made of."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from coordinator.store.items import MAX_BYTES
from coordinator.store.journal import Journal
from coordinator.store.library_schema import item_labels
from manta.clock import ManualClock
from manta.errors import InvalidInput, NotFound
from tests.store.support import OTHER, TENANT


async def labels(journal: Journal) -> int:
    query = select(func.count()).select_from(item_labels)
    return await journal.items._read(lambda c: c.execute(query).scalar_one())


async def test_an_item_reads_back_and_is_replaced_whole(journal: Journal, clock: ManualClock):
    space = ["users", "ann"]
    began = clock.now()
    first = await journal.items.put(TENANT, space, "food", {"likes": ["squid"], "hates": None})
    assert first == await journal.items.get(TENANT, space, "food")
    assert (first.namespace, first.key) == (("users", "ann"), "food")
    assert (first.created_at, first.updated_at) == (began, began)

    await clock.advance(5)
    second = await journal.items.put(TENANT, space, "food", {"likes": []})
    assert (second.value, second.created_at, second.updated_at) == ({"likes": []}, began, began + 5)
    assert await journal.items.search(TENANT, filter={"hates": None}) == []

    await journal.items.delete(TENANT, space, "food")
    for call in (journal.items.get(TENANT, space, "food"), journal.items.delete(TENANT, space, "food")):
        with pytest.raises(NotFound):
            await call
    assert await labels(journal) == 0


async def test_names_are_never_mistaken_for_each_other(journal: Journal):
    spaces = [[], ["a"], ["a", "b"], ["a.b"], ["a/b"], ['a","b'], ["A"], ["a%"], ["a_"], ["ab"], ["ä", "🐟"]]
    for n, space in enumerate(spaces):
        await journal.items.put(TENANT, space, "k", {"n": n})

    for n, space in enumerate(spaces):
        assert (await journal.items.get(TENANT, space, "k")).value == {"n": n}
    assert await journal.items.namespaces(TENANT) == sorted(map(tuple, spaces))
    assert {i.namespace for i in await journal.items.search(TENANT, ["a"])} == {("a",), ("a", "b")}
    assert [i.namespace for i in await journal.items.search(TENANT, ["A"])] == [("A",)]
    assert [i.namespace for i in await journal.items.search(TENANT, ["ä"])] == [("ä", "🐟")]
    assert len(await journal.items.search(TENANT, [], limit=100)) == len(spaces)


async def test_a_search_takes_prefix_and_fields_together(journal: Journal, clock: ManualClock):
    for n in range(6):
        await clock.advance(1)
        value = {"kind": "fish" if n % 2 else "bird", "n": n, "deep": {"b": 1, "a": [n % 3]}}
        await journal.items.put(TENANT, ["zoo", str(n % 2)], f"k{n}", value)
    await journal.items.put(OTHER, ["zoo", "1"], "k1", {"kind": "fish"})

    async def found(*arguments: Any, **filters: Any) -> list[str]:
        return [item.key for item in await journal.items.search(TENANT, *arguments, **filters)]

    assert await found(["zoo"]) == ["k5", "k4", "k3", "k2", "k1", "k0"]
    assert await found(["zoo"], {"kind": "fish"}, 2) == ["k5", "k3"]
    assert await found(["zoo"], {"kind": "fish"}, 2, 2) == ["k1"]
    assert await found([], {"deep": {"a": [1], "b": 1}}) == ["k4", "k1"]
    assert await found(["zoo", "0"], {"kind": "fish"}) == []
    for near in ({"n": "1"}, {"n": 1.0}, {"n": True}, {"kind": "FISH"}, {"deep": {"a": [1]}}, {"none": None}):
        assert await found([], near) == []
    # What was changed last comes first.
    await clock.advance(1)
    await journal.items.put(TENANT, ["zoo", "0"], "k0", {"kind": "fish"})
    assert await found(["zoo"], {"kind": "fish"}, 1) == ["k0"]


async def test_namespaces_are_listed_by_both_ends_and_depth(journal: Journal):
    for space in (["a", "x", "end"], ["a", "y", "end"], ["a", "y"], ["b", "end"], ["end"]):
        await journal.items.put(TENANT, space, "k1", {})
        await journal.items.put(TENANT, space, "k2", {})
    await journal.items.put(OTHER, ["c", "end"], "k", {})

    listed = journal.items.namespaces
    assert await listed(TENANT, ["a"]) == [("a", "x", "end"), ("a", "y"), ("a", "y", "end")]
    assert await listed(TENANT, suffix=["end"]) == [
        ("a", "x", "end"),
        ("a", "y", "end"),
        ("b", "end"),
        ("end",),
    ]
    assert await listed(TENANT, ["a"], ["y", "end"]) == [("a", "y", "end")]
    assert await listed(TENANT, max_depth=1) == [("a",), ("b",), ("end",)]
    assert await listed(TENANT, limit=2, offset=1) == [("a", "y"), ("a", "y", "end")]
    with pytest.raises(InvalidInput):
        await listed(TENANT, max_depth=0)


@pytest.mark.parametrize("space", ["users", ["x"] * 17, [""], ["x" * 256], ["a\0"], ["\ud800"], ["a\n"]])
async def test_a_namespace_of_no_use_is_refused(journal: Journal, space):
    for call in (
        journal.items.put(TENANT, space, "k", {}),
        journal.items.get(TENANT, space, "k"),
        journal.items.search(TENANT, space),
        journal.items.namespaces(TENANT, suffix=space),
    ):
        with pytest.raises(InvalidInput):
            await call


async def test_the_longest_names_are_kept(journal: Journal):
    space = ["🐟" * 255] * 16
    await journal.items.put(TENANT, space, "🐟" * 255, {"🐟" * 1000: "x"})
    [found] = await journal.items.search(TENANT, space[:15], {"🐟" * 1000: "x"})
    assert found == await journal.items.get(TENANT, space, "🐟" * 255)


MANY = dict.fromkeys(map(str, range(1001)))


@pytest.mark.parametrize(
    "value",
    [None, [], "x", {"a": object()}, {"a": float("nan")}, {1: 2}, {"a": "x" * MAX_BYTES}, MANY],
)
async def test_a_value_of_no_use_is_refused(journal: Journal, value):
    with pytest.raises(InvalidInput):
        await journal.items.put(TENANT, [], "k", value)
    for key in ("", "x" * 256, "a\0b"):
        with pytest.raises(InvalidInput):
            await journal.items.put(TENANT, [], key, {})


async def test_a_large_value_of_any_text_is_kept(journal: Journal):
    value = {"text": "x" * (MAX_BYTES - 100), "odd": "\0\ud800"}
    await journal.items.put(TENANT, [], "k", value)
    assert (await journal.items.get(TENANT, [], "k")).value == value


async def test_two_processes_put_one_item(url: str, journal: Journal, clock: ManualClock):
    second = await Journal.open(url, clock)
    try:
        for n in range(10):
            await asyncio.gather(
                *(j.items.put(TENANT, ["s"], f"k{n}", {f"by{b}": n}) for b, j in enumerate((journal, second)))
            )
            kept = (await journal.items.get(TENANT, ["s"], f"k{n}")).value
            # The labels are those of the value that stayed.
            for b in range(2):
                found = await journal.items.search(TENANT, ["s"], {f"by{b}": n})
                assert len(found) == (1 if f"by{b}" in kept else 0)
    finally:
        await second.close()


spaces = st.lists(st.sampled_from(["a", "b", "a.b"]), max_size=3)
values = st.dictionaries(st.sampled_from("xyz"), st.sampled_from([0, False, None, "0", [0], {}]), max_size=2)
puts = st.tuples(spaces, st.sampled_from("kl"), values | st.none())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(puts, max_size=15), prefix=spaces, filter=values)
def test_items_are_a_dictionary(tmp_path: Path, changes, prefix, filter):
    """A value of None stands for a deletion."""

    async def check() -> None:
        journal = await Journal.open(f"sqlite:///{tmp_path}/items.db", ManualClock())
        # Each example has a tenant of its own in the one file.
        tenant = f"t{len(await journal.items._read(_tenants))}"
        model: dict[tuple[tuple[str, ...], str], dict] = {}
        for space, key, value in changes:
            if value is not None:
                await journal.items.put(tenant, space, key, value)
                model[tuple(space), key] = value
            elif model.pop((tuple(space), key), None) is not None:
                await journal.items.delete(tenant, space, key)
        found = await journal.items.search(tenant, prefix, filter, limit=100)
        wanted = {
            where: value
            for where, value in model.items()
            if where[0][: len(prefix)] == tuple(prefix)
            and all(k in value and repr(value[k]) == repr(v) for k, v in filter.items())
        }
        assert {(i.namespace, i.key): i.value for i in found} == wanted
        assert await journal.items.namespaces(tenant) == sorted({space for space, _ in model})
        await journal.items.put(tenant, [], "there", {})
        await journal.close()

    asyncio.run(check())


def _tenants(connection):
    from coordinator.store.library_schema import items

    return connection.execute(select(items.c.tenant).distinct()).all()
