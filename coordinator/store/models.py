"""Models: their versions, the routes that share calls out among these, and how the versions do beside each other.

Nothing here deploys anything. Somebody else, the keeper, asks for the `plan`, deploys it, and says what came of
each route.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from coordinator.experiments import Comparison, compare
from coordinator.store import model_routes as routes
from coordinator.store.model_declare import declare
from coordinator.store.model_outcomes import compared_route, observed, total_rows, write_totals
from coordinator.store.model_reads import on_file, read_book, read_plan, read_version
from coordinator.store.model_records import (
    ArmTotals,
    Book,
    KeeperPlan,
    ModelOnFile,
    ModelVersion,
    Route,
    Sticky,
)
from coordinator.store.model_routes import Wish, check_wish
from coordinator.store.model_rows import (
    find_route,
    generation,
    lock,
    model_not_found,
    model_row,
    needed,
    put_version,
    require_model,
    require_model_name,
    require_settings,
    require_versions,
    set_version,
    version_record,
)
from coordinator.store.model_schema import models
from coordinator.store.model_versions import (
    checked_by,
    checked_note,
    is_removed,
    made_by_key,
    merged_replicas,
    newest,
    primary,
    remove_model,
    remove_version,
    require_new,
)
from coordinator.store.room import Room
from coordinator.store.rows import require_name
from manta.errors import Conflict

T = TypeVar("T")

KEEP_S = 300.0
REMOVAL_GRACE_S = 10.0
"""How long what was removed stays up: others may still go by a book that has it."""


class Models(Room):
    """Every method with a model's name raises NotFound, code `model_not_found`, for one that is not there.

    All may be repeated, but a `rollback` needs the revision that it is from for that.
    """

    async def declare(self, models: Mapping[str, dict[str, Any]], serving: bool = False) -> Book:
        """What the settings file says when a platform starts. While nothing serves, its routes are active at once.

        A model is left as it is where the file says the same as the last time, whatever was done with it
        meanwhile; else it gets a new version, promoted, or other replicas. One that only ever came from a
        file and is gone from it is removed.

        Args:
            serving: a platform is at work: its routes serve until the new ones' versions run.

        Raises:
            InvalidInput: a name or settings cannot be kept.
        """
        checked = {require_model_name(name): require_settings(said) for name, said in models.items()}
        now = self._clock.now()

        def change(connection: Connection) -> Book:
            declare(connection, checked, now, serving=serving)
            return read_book(connection, generation(connection))

        return await self._change(change)

    async def add(
        self, model: str, settings: dict[str, Any], by: str = "", note: str = "", key: str | None = None
    ) -> ModelVersion:
        """The next version. It gets no calls, unless the model has no route: then one is made that sends it all.

        Args:
            key: the same key again gives the same version.

        Raises:
            InvalidInput: the name, the settings or the note cannot be kept.
            Conflict: code `model_version_exists`, the newest version that is up has the same settings.
            IdempotencyConflict: the key was used with other settings.
        """
        now = self._clock.now()
        values: dict[str, Any] = {
            "settings": require_settings(settings),
            "note": checked_note(note),
            "created_by": checked_by(by),
            "created_at": now,
            "idempotency_key": None if key is None else require_name("an idempotency key", key),
        }
        require_model_name(model)

        def change(connection: Connection) -> ModelVersion:
            known = made_by_key(connection, model, values)
            if known is not None:
                return known
            require_new(connection, model, values["settings"])
            made = put_version(connection, model, values)
            if not needed(connection, model):
                wish = Wish({made.version: 100}, "run", "added", KEEP_S, values["created_by"])
                routes.ask_for(connection, model, wish, now)
            return version_record(made)

        return await self._change(change)

    async def promote(
        self, model: str, version: int | None = None, keep_s: float = KEEP_S, by: str = ""
    ) -> Route:
        """All calls to one version, None: the newest. The route that does so already, if there is one.

        Args:
            keep_s: how long the versions before it stay up, for an instant way back.

        Raises:
            NotFound: code `version_not_found`.
        """

        now = self._clock.now()

        def change(connection: Connection) -> Route:
            require_model(connection, model)
            chosen = newest(connection, model) if version is None else version
            return _ask_for(connection, model, Wish({chosen: 100}, "run", "promoted", keep_s, by), now)

        return await self._change(change)

    async def split(
        self,
        model: str,
        weights: Mapping[int, int],
        sticky: Sticky = "run",
        keep_s: float = KEEP_S,
        by: str = "",
    ) -> Route:
        """Calls to several versions by their shares, which need not add up to anything.

        Raises:
            InvalidInput: a share or `sticky` cannot be.
            NotFound: code `version_not_found`.
        """
        now = self._clock.now()
        wish = Wish(dict(weights), sticky, "split", keep_s, by)
        return await self._change(lambda c: _ask_for(c, model, wish, now))

    async def rollback(
        self, model: str, by: str = "", revision: int | None = None, pending: int | None = None
    ) -> Route:
        """Back to the latest route that served and differs from the active one.

        Where a route is pending, this is what goes back: it is given up, and the active one stays.

        Args:
            revision: the active route that it goes back from. If another one is active, that one is given as
                it is; so a rollback that is repeated goes back once.
            pending: likewise the pending route that is given up.

        Raises:
            Conflict: code `no_earlier_route`.
        """

        now = self._clock.now()

        def change(connection: Connection) -> Route:
            require_model(connection, model)
            active = find_route(connection, model, "active")
            if active is None:
                raise Conflict(
                    f"model {model} does not serve", fix="promote a version", code="no_earlier_route"
                )
            if revision is not None and active.revision != revision:
                return active
            waiting = find_route(connection, model, "pending")
            if pending is not None and (waiting is None or waiting.revision != pending):
                return active
            if (
                waiting is not None
                and waiting.why == "rolled_back"
                and pending is None
                and revision is not None
            ):
                # The same call came before.
                return waiting
            if waiting is not None:
                # Asked for once more, the active route stays, and what was pending is not.
                earlier, keep_s = active, routes.keep_s(connection, waiting)
            else:
                earlier, keep_s = routes.weights_before(connection, model, active), KEEP_S
            wish = Wish(earlier.weights, earlier.sticky, "rolled_back", keep_s, by)
            return _ask_for(connection, model, wish, now)

        return await self._change(change)

    async def scale(
        self, model: str, replicas: Mapping[str, Any], version: int | None = None
    ) -> ModelVersion:
        """Other replicas for a version, None: the one with the largest share, else the newest.

        Args:
            replicas: fields of `ReplicaSettings`; those left out stay as they are.

        Raises:
            InvalidInput: no such replicas.
            NotFound: code `version_not_found`.
        """

        def change(connection: Connection) -> ModelVersion:
            require_model(connection, model)
            chosen = primary(connection, model) if version is None else version
            row = require_versions(connection, model, [chosen])[chosen]
            scaled = {**row.settings, "replicas": merged_replicas(row.settings.get("replicas", {}), replicas)}
            if scaled != row.settings:
                set_version(connection, model, chosen, settings=scaled)
            return read_version(connection, model, chosen)

        return await self._change(change)

    async def remove(self, model: str, version: int | None = None) -> None:
        """A version, or the whole model. What is removed goes down soon and never comes back under its number.

        Raises:
            Conflict: code `version_in_use`, a route needs the version.
        """
        now = self._clock.now()

        def change(connection: Connection) -> None:
            row = model_row(connection, model)
            if row is None:
                raise model_not_found(model)
            if row.removed or (version is not None and is_removed(connection, model, version)):
                return
            if version is None:
                remove_model(connection, model, now, REMOVAL_GRACE_S)
                return
            require_versions(connection, model, [version])
            if version in needed(connection, model):
                raise Conflict(
                    f"calls of {model} go to version {version}",
                    fix="promote another version first",
                    code="version_in_use",
                )
            remove_version(connection, model, version, now + REMOVAL_GRACE_S)

        await self._change(change)

    async def book(self, known: int = -1) -> Book | None:
        """All models that answer; None: nothing has changed since the generation `known`."""

        def query(connection: Connection) -> Book | None:
            # The generation first: what changes meanwhile is then asked for again.
            current = generation(connection)
            return None if current == known else read_book(connection, current)

        return await self._read(query)

    async def plan(self) -> KeeperPlan:
        return await self._read(read_plan)

    async def activate(self, model: str, revision: int) -> None:
        """A pending route's versions all run: it serves now. Nothing if it is pending no more.

        Versions of the route before it that no route needs may go down after the new one's `keep_s`.
        """
        now = self._clock.now()
        await self._change(lambda c: routes.activate(c, model, revision, now))

    async def fail(self, model: str, revision: int, error: str) -> None:
        """A pending route's versions cannot run. Nothing if it is pending no more."""
        now = self._clock.now()
        await self._change(lambda c: routes.fail(c, model, revision, error, now))

    async def retire(self, model: str, version: int) -> bool:
        """Takes a version whose time is over out of the plan; whether it is out."""
        now = self._clock.now()
        return await self._change(lambda c: routes.retire(c, model, version, now))

    async def record(self, meter: str, totals: Sequence[ArmTotals]) -> None:
        """What one process saw of versions since it started. Twice is as once, and an older word changes nothing.

        Args:
            meter: the process's life, up to 32 characters.

        Raises:
            InvalidInput: a count or a sum cannot be.
        """
        rows = total_rows(meter, totals)
        await self._write(lambda c: write_totals(c, rows))

    async def comparison(self, model: str, revision: int | None = None) -> Comparison:
        """How the versions of a route do beside each other; None: of the newest that has several and served.

        A run's rating counts for the version that the route chooses for it, whichever answered in the end.

        Raises:
            NotFound: code `no_comparison`, there is no such route.
        """

        def query(connection: Connection) -> Comparison:
            route = compared_route(connection, require_model(connection, model).name, revision)
            return compare(route, observed(connection, route))

        return await self._read(query)

    async def list(self) -> Sequence[ModelOnFile]:
        """By name."""
        names = select(models.c.name).where(models.c.removed.is_(False)).order_by(models.c.name)
        return await self._read(lambda c: [on_file(c, name) for (name,) in c.execute(names).all()])

    async def get(self, model: str) -> ModelOnFile:
        def query(connection: Connection) -> ModelOnFile:
            return on_file(connection, require_model(connection, model).name)

        return await self._read(query)

    async def _change(self, change: Callable[[Connection], T]) -> T:
        def operation(connection: Connection) -> T:
            lock(connection)
            return change(connection)

        return await self._write(operation)


def _ask_for(connection: Connection, model: str, wish: Wish, now: float) -> Route:
    require_model(connection, model)
    require_versions(connection, model, list(wish.weights))
    check_wish(wish)
    checked_by(wish.by)
    return routes.ask_for(connection, model, wish, now)
