"""Feedback on a run: what may be said, and to whom it is shown."""

import pytest

from coordinator.store.journal import Journal
from manta.clock import ManualClock
from manta.errors import InvalidInput, NotFound
from manta.ids import RunId, new_run_id
from tests.store.library_support import finished
from tests.store.support import OTHER, TENANT


async def test_what_was_said_is_listed_in_order(journal: Journal, clock: ManualClock):
    run = await finished(journal)
    first = await journal.feedback.add(TENANT, run.id, "ann", 5)
    second = await journal.feedback.add(TENANT, run.id, "bob", comment="No numbers.\0 \ud800 🐟")
    third = await journal.feedback.add(TENANT, run.id, "ann", 1, "I changed my mind.")

    assert await journal.feedback.list(TENANT, run.id) == [first, second, third]
    assert (first.rating, first.comment, first.principal, first.run) == (5, "", "ann", run.id)
    assert (second.rating, second.comment) == (None, "No numbers.\0 \ud800 🐟")
    assert first.created_at == clock.now()
    assert len({first.id, second.id, third.id}) == 3
    other = await finished(journal)
    assert await journal.feedback.list(TENANT, other.id) == []


@pytest.mark.parametrize(
    ("rating", "comment"),
    [(None, ""), (None, " \n"), (0, ""), (6, ""), (True, ""), (3.0, ""), (5, "x" * 10_001)],
)
async def test_feedback_of_no_use_is_refused(journal: Journal, rating, comment: str):
    run = await finished(journal)
    with pytest.raises(InvalidInput):
        await journal.feedback.add(TENANT, run.id, "ann", rating, comment)
    assert await journal.feedback.list(TENANT, run.id) == []


async def test_another_tenants_run_is_not_there(journal: Journal):
    run = await finished(journal)
    await journal.feedback.add(TENANT, run.id, "ann", 3)
    for tenant, wanted in ((OTHER, run.id), (TENANT, new_run_id()), (TENANT, RunId("a\0b"))):
        with pytest.raises(NotFound):
            await journal.feedback.add(tenant, wanted, "ann", 3)
        with pytest.raises(NotFound):
            await journal.feedback.list(tenant, wanted)
