"""The registry of models as one caller may use it: what is asked for is checked, then kept."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path
from pydantic import TypeAdapter, ValidationError, WithJsonSchema

from coordinator.store.model_records import ModelOnFile, ModelVersion
from coordinator.store.model_versions import PRINT
from manta.errors import Forbidden, InvalidInput, MantaError, NotFound
from manta.model_settings import ModelSettings, Name
from serve_app.gateway import model_rules as rules
from serve_app.gateway.access.scopes import allows
from serve_app.gateway.deps import Caller, CallerDep, Platform, PlatformDep
from serve_app.gateway.model_shapes import (
    ModelJson,
    RouteJson,
    States,
    VersionJson,
    model_json,
    route_json,
    version_json,
)
from serve_app.gateway.openai import EMBEDDING_MODEL

STATES_PATIENCE_S = 2.0
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_NAME_SCHEMA = WithJsonSchema(_NAME.json_schema())


@dataclass(frozen=True, slots=True)
class ModelDesk:
    platform: Platform
    caller: Caller

    async def ask(self, method: str, *arguments: Any) -> Any:
        return await self.platform.coordinator.call("library", "models", method, *arguments)

    async def _change(self, method: str, *arguments: Any) -> Any:
        answer = await self.ask(method, *arguments)
        # It would find out by itself, only later.
        self.platform.keeper.tell("look")
        return answer

    async def shown(self, models: Sequence[ModelOnFile]) -> list[ModelJson]:
        states, default = await self._states(), self.platform.default_model
        return [model_json(model, states, default, whole=self._is_admin) for model in models]

    async def add(self, name: str, given: Mapping[str, Any], note: str, key: str | None) -> VersionJson:
        """Raises InvalidInput, Forbidden, Conflict (`model_version_exists`), IdempotencyConflict."""
        self._require_free(name)
        settings = rules.read_settings(given, "settings")
        self._require_may_set(settings)
        kept = settings.model_dump(mode="json")
        rules.require_chain(await self.ask("list"), name, [kept])
        known_by = self._key_of(name, key, {"settings": kept, "note": note})
        added: ModelVersion = await self._change("add", name, kept, self.caller.principal, note, known_by)
        return await self._version(added)

    async def promote(self, name: str, version: int | None, keep_s: float) -> RouteJson:
        """Raises NotFound, InvalidInput (its fallbacks), Conflict."""
        model = await self._get(name)
        if version is None:
            version = max((each.version for each in model.versions), default=None)
        if version is not None:
            await self._require_chain(model, {version: 1})
        return route_json(await self._change("promote", name, version, keep_s, self.caller.principal))

    async def split(self, name: str, weights: Mapping[int, int], sticky: str, keep_s: float) -> RouteJson:
        """Raises NotFound, InvalidInput, Conflict."""
        await self._require_chain(await self._get(name), weights)
        by = self.caller.principal
        return route_json(await self._change("split", name, dict(weights), sticky, keep_s, by))

    async def scale(self, name: str, version: int | None, changes: Mapping[str, Any]) -> VersionJson:
        """Raises NotFound, InvalidInput, Conflict (`ambiguous`)."""
        if not changes:
            raise InvalidInput("nothing is to be changed", fix="give min, max or another field of replicas")
        model = await self._get(name)
        number = rules.scaled_version(model, version)
        for found in model.versions:
            if found.version == number:
                rules.require_replicas(found.settings, changes)
        return await self._version(await self._change("scale", name, dict(changes), number))

    async def rollback(self, name: str) -> RouteJson:
        """Raises NotFound, Conflict (`no_earlier_route`)."""
        model = await self._get(name)
        # With the revisions that it is from, a call that is repeated goes back once.
        active, pending = (each and each.revision for each in (model.route, model.pending))
        return route_json(await self._change("rollback", name, self.caller.principal, active, pending))

    async def remove(self, name: str) -> None:
        """Raises NotFound, Conflict (`model_in_use`)."""
        models: Sequence[ModelOnFile] = await self.ask("list")
        if all(model.model != name for model in models):
            raise no_model(name)
        rules.require_removable(models, name, self.platform.default_model, self.platform.models.routers)
        await self._change("remove", name)

    async def _get(self, name: str) -> ModelOnFile:
        found: ModelOnFile = await self.ask("get", name)
        return found

    async def _require_chain(self, model: ModelOnFile, weights: Mapping[int, int]) -> None:
        versions = rules.versions_of(model, weights)
        rules.require_chain(await self.ask("list"), model.model, versions)

    async def _version(self, version: ModelVersion) -> VersionJson:
        weights = (await self._get(version.model)).route
        return version_json(
            version, await self._states(), weights.weights if weights else {}, whole=self._is_admin
        )

    async def _states(self) -> States | None:
        try:
            states: States = await self.platform.keeper.call("states", patience_s=STATES_PATIENCE_S)
        except MantaError:
            # What is on file is worth telling without it.
            return None
        return states

    @property
    def _is_admin(self) -> bool:
        account = self.caller.account
        return account is None or allows(frozenset(account.record.scopes), "admin")

    def _require_free(self, name: str) -> None:
        if not _can_be_named(name):
            fix = "up to 63 lower-case letters, digits, - and _, a letter first"
            raise InvalidInput(f"a model cannot be named {name[:64]!r}", fix=fix)
        if name == EMBEDDING_MODEL or name in self.platform.models.routers:
            raise InvalidInput(f"{name!r} is the name of something else", fix="choose another name")

    def _require_may_set(self, settings: ModelSettings) -> None:
        field = rules.for_admins(settings)
        if field and not self._is_admin:
            raise Forbidden(
                f"settings.{field} may only be set with the scope admin", fix="use a key that has it"
            )

    def _key_of(self, name: str, key: str | None, asked: Mapping[str, Any]) -> str:
        """Calls of the coordinator are repeated, so each request has a key, a caller's or one of its own."""
        if key is None:
            return uuid.uuid4().hex
        whose = hashlib.sha256(f"{self.caller.tenant}/{name}/{key}".encode()).hexdigest()
        what = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return f"{whose}{PRINT}{what}"


def _can_be_named(name: str) -> bool:
    try:
        _NAME.validate_python(name)
    except ValidationError:
        return False
    return True


def no_model(name: str) -> NotFound:
    return NotFound(f"there is no model {name[:64]!r}", fix="manta models list", code="model_not_found")


async def model_of(name: Annotated[str, _NAME_SCHEMA, Path()]) -> str:
    """A name that a model can have. Raises NotFound."""
    if not _can_be_named(name):
        raise no_model(name)
    return name


async def model_desk_of(platform: PlatformDep, caller: CallerDep) -> ModelDesk:
    return ModelDesk(platform, caller)


ModelPath = Annotated[str, Depends(model_of)]
VersionPath = Annotated[int, Path(ge=1, le=999_999_999)]
ModelDeskDep = Annotated[ModelDesk, Depends(model_desk_of)]
