"""What people say of a run: a rating, a comment, or both, as often as they like."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from coordinator.store.library_records import FeedbackRecord
from coordinator.store.library_schema import feedback
from coordinator.store.requests import used_otherwise
from coordinator.store.room import Room, new_id
from coordinator.store.rows import lock_run_of, plain, require_name, run_not_found
from coordinator.store.schema import runs
from manta.errors import InvalidInput
from manta.ids import RunId, Tenant

MAX_COMMENT = 10_000


class Feedback(Room):
    """Both methods raise NotFound for a run that the tenant does not have."""

    async def add(
        self,
        tenant: Tenant,
        run: RunId,
        principal: str,
        rating: int | None = None,
        comment: str = "",
        feedback_id: str | None = None,
    ) -> FeedbackRecord:
        """Adds to what was said before, unless the caller's own `feedback_id` is there already.

        Args:
            rating: 1 (worst) to 5.
            comment: up to 10,000 characters.

        Raises:
            InvalidInput: neither of the two, or one out of bounds.
            IdempotencyConflict: the id is there with something else.
        """
        _check(rating, comment)
        said = {"rating": rating, "comment": comment, "principal": require_name("principal", principal)}
        wanted, now = require_name("an id", feedback_id or new_id()), self._clock.now()

        def operation(connection: Connection) -> FeedbackRecord:
            lock_run_of(connection, tenant, run)
            own = (feedback.c.tenant == tenant, feedback.c.run_id == run)
            before = connection.execute(select(feedback).where(*own, feedback.c.id == wanted)).one_or_none()
            if before is not None:
                return _same(_record(before), said)
            last = connection.execute(select(func.max(feedback.c.number)).where(*own)).scalar() or 0
            new = {"tenant": tenant, "run_id": run, "number": last + 1, "id": wanted, "created_at": now}
            connection.execute(insert(feedback).values(**new, **said))
            return _record(connection.execute(select(feedback).where(feedback.c.id == new["id"])).one())

        return await self._write(operation)

    async def list(self, tenant: Tenant, run: RunId) -> Sequence[FeedbackRecord]:
        """What was said of a run, the oldest first."""

        def query(connection: Connection) -> list[FeedbackRecord]:
            own_run = (runs.c.tenant == tenant, runs.c.id == plain(run))
            if connection.execute(select(runs.c.id).where(*own_run)).first() is None:
                raise run_not_found(run)
            own = select(feedback).where(feedback.c.tenant == tenant, feedback.c.run_id == run)
            return [_record(row) for row in connection.execute(own.order_by(feedback.c.number))]

        return await self._read(query)


def _check(rating: int | None, comment: str) -> None:
    if rating is None and not comment.strip():
        raise InvalidInput("feedback needs a rating or a comment", fix="send rating 1 to 5, or a comment")
    if rating is not None and (type(rating) is not int or not 1 <= rating <= 5):
        raise InvalidInput(f"a rating is 1 to 5, not {rating!r}", fix="5 is the best")
    if len(comment) > MAX_COMMENT:
        raise InvalidInput(f"a comment may have {MAX_COMMENT} characters", fix="say it in fewer words")


def _same(before: FeedbackRecord, said: Mapping[str, Any]) -> FeedbackRecord:
    if any(getattr(before, name) != value for name, value in said.items()):
        raise used_otherwise(before.id)
    return before


def _record(row: Row[Any]) -> FeedbackRecord:
    return FeedbackRecord(
        id=row.id,
        tenant=row.tenant,
        run=row.run_id,
        principal=row.principal,
        rating=row.rating,
        comment=row.comment,
        created_at=row.created_at,
    )
