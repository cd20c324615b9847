"""A coordinator on a real journal, with plain functions as agents."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.service import CoordinatorService
from manta.clock import SystemClock
from manta.graph import Names, parse_graph
from tests.coordinator.functions import Agents, FunctionRuntime, Start


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    services: list[CoordinatorService] = []

    async def make(
        graph: dict[str, Any], agents: Agents, clock: Any = None, places: int = 1000, **more: Any
    ) -> tuple[CoordinatorService, FunctionRuntime]:
        runtime = FunctionRuntime(agents, places)
        parsed = parse_graph({"name": "g", **graph})
        service = CoordinatorService(
            f"sqlite:///{tmp_path}/j.db",
            runtime,
            {"g": parsed},
            Names(frozenset(agents), frozenset()),
            clock or SystemClock(),
            "me",
            **more,
        )
        services.append(service)
        await service.started()
        return service, runtime

    yield make
    for service in services:
        await service.close()
