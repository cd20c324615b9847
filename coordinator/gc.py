"""`python -m coordinator gc`: lets go of what the settings no longer keep, beside a running platform or without one."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.store.compaction import compact, journal_file
from coordinator.store.journal import Journal
from coordinator.store.library_records import Swept
from coordinator.store.retention import BATCH, DAY_S
from coordinator.stored_files import sweep_files
from manta.clock import Clock, SystemClock
from manta.config import Settings, load_settings
from manta.errors import MantaError, NotFound
from manta.messages import to_json
from manta.platform_process import running

PAUSE_S = 0.02
"""Seconds between two transactions: about as long as one of them takes."""
_REWRITE = "the file keeps its size while the platform runs: manta down, manta gc, manta up"


def gc(
    config: Annotated[Path | None, typer.Option(help="Settings file.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of the journal and the files.")] = None,
    runs_days: Annotated[float | None, typer.Option(help="Instead of retention.runs_days.")] = None,
    calls_days: Annotated[float | None, typer.Option(help="Instead of retention.calls_days.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Delete old runs, the wording of old calls, and files that nothing names."""
    wanted = {
        "home": home and str(home),
        "retention.runs_days": runs_days,
        "retention.calls_days": calls_days,
    }
    overrides: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    try:
        settings = load_settings(config, overrides=overrides)
        swept = asyncio.run(collect(settings, SystemClock(), dry_run=dry_run, pause_s=PAUSE_S))
    except MantaError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(to_json(swept)) if as_json else "\n".join(told(swept, dry_run=dry_run)))


async def collect(settings: Settings, clock: Clock, *, dry_run: bool = False, pause_s: float = 0.0) -> Swept:
    """What went from the journal and the folder of stored files.

    A journal that never had a run is taken for the wrong one, and all files stay: it would name none of them.

    Raises:
        NotFound: there is no journal.
        StorageUnavailable: the journal cannot be used.
    """
    file = journal_file(settings.journal_url)
    if file is not None and not file.exists():
        raise NotFound(f"there is no journal at {file}", fix="check --home, or MANTA_STORE_URL")
    now = clock.now()
    journal = await Journal.open(settings.journal_url, clock)
    try:
        swept = await journal.retention.sweep(
            now, settings.retention, BATCH, dry_run=dry_run, pause_s=pause_s
        )
        if await journal.retention.has_had_runs():
            before = now - settings.retention.files_days * DAY_S
            folder = settings.home / "artifacts"
            files, size = await sweep_files(folder, journal.retention.named_files, before, dry_run=dry_run)
            swept = dataclasses.replace(swept, files=files, file_bytes=size)
    finally:
        await journal.close()
    if dry_run:
        return swept
    alone = running(settings.home) is None
    freed = await asyncio.to_thread(compact, settings.journal_url, rewrite=alone, pause_s=pause_s)
    return dataclasses.replace(swept, freed=freed or 0, notes=() if freed is not None else (_REWRITE,))


def told(swept: Swept, *, dry_run: bool) -> list[str]:
    """The result in lines for people."""
    size = f" ({_mebibytes(swept.file_bytes)})" if swept.files else ""
    gone = f"{swept.runs} runs, the wording of {swept.calls} calls, {swept.files} files{size}"
    if dry_run:
        return [f"would go: {gone}"]
    return [f"gone: {gone}", f"the journal gave back {_mebibytes(swept.freed)}", *swept.notes]


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
