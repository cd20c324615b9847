"""`python -m coordinator replay RUN`: a recorded run executed again by the present code, without a platform.

It fails at the first call whose request is not the recorded one: a regression test for changed code.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from agents.context import LocalArtifacts
from agents.host import HostParts
from agents.hosting import Hosting
from agents.worker import pool_of
from coordinator.graph_library import load_library
from coordinator.offline.driver import Replay, Replayed
from coordinator.offline.log import CurrentLog
from coordinator.offline.parts import NoDocuments, NotedModels, StoredFiles
from coordinator.offline.recording import Recording, read_recording
from coordinator.runtime import LocalRuntime
from coordinator.store.read_only import reading
from manta.config import Settings, load_settings
from manta.errors import MantaError, NotFound
from manta.graph import Graph, parse_graph
from manta.ids import RunId
from manta.messages import to_json


def replay(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    config: Annotated[Path | None, typer.Option(help="Settings file.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of the journal and the files.")] = None,
    graph: Annotated[
        Literal["recorded", "current"], typer.Option(help="The graph the run kept, or that of today's files.")
    ] = "recorded",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Execute a recorded run again, offline, and say where the present code leaves the record."""
    try:
        settings = load_settings(config, overrides={"home": str(home)} if home else {})
        if settings.ships_code:
            # As in the workers: the agents' own modules lie beside the settings file.
            sys.path.insert(0, str(settings.project))
        with reading(settings.journal_url) as connection:
            recording = read_recording(connection, RunId(run))
        replayed = asyncio.run(replay_recording(recording, settings, graph))
    except MantaError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(to_json(replayed)) if as_json else "\n".join(told(recording, replayed)))
    if replayed.mismatch is not None:
        typer.echo(f"error: {replayed.mismatch.error()}", err=True)
        raise typer.Exit(1)


async def replay_recording(
    recording: Recording, settings: Settings, graph: Literal["recorded", "current"] = "recorded"
) -> Replayed:
    """Raises MantaError for a run or an agent that cannot be executed here; a mismatch is in the result."""
    chosen = _graph(recording, settings, graph)
    log = CurrentLog()
    parts = HostParts(
        models=NotedModels(settings.default_model, recording.notes, log.refuse),
        documents=NoDocuments(log.refuse),
        artifacts=StoredFiles(LocalArtifacts(settings.home / "artifacts")),
        call_log=log.of,
    )
    hosting = Hosting(
        agents=settings.agents,
        tools=settings.tools,
        search=settings.search,
        sandbox=settings.sandbox,
        connect=lambda: parts,
    )
    wanted = {pool_of(step) for step in chosen.all_steps()}
    hosts = {name: hosting.host(name) for name in sorted(wanted & set(settings.agents))}
    return await Replay(recording, chosen, LocalRuntime(hosts), log).execute()


def told(recording: Recording, replayed: Replayed) -> list[str]:
    """The result in lines for people."""
    done = f"{_counted(replayed.steps, 'step')} and {_counted(replayed.calls, 'recorded call')} replayed"
    if replayed.mismatch is not None:
        return [f"{done}, then the code left the record", *replayed.mismatch.difference]
    lines = [f"{done}, everything as recorded"]
    if replayed.output_equal:
        lines.append("the output is the same")
    else:
        lines.append(
            f"the run ended with {recording.run.status!r}; it was replayed as far as it was recorded"
        )
    lines += [f"the record of step {key} ends before the step does" for key in replayed.stopped_at]
    return lines


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _graph(recording: Recording, settings: Settings, graph: str) -> Graph:
    run = recording.run
    if graph == "recorded":
        return parse_graph(run.graph, f"run {run.id}")
    library = load_library(settings)
    if run.graph_name not in library:
        there = ", ".join(sorted(library))
        raise NotFound(f"there is no graph {run.graph_name!r}", fix=f"one of: {there}", code="unknown_graph")
    return library[run.graph_name]
