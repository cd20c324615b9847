"""Stored files go when nothing names them and they are old, and never while somebody stores them again."""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path

import pytest

from agents.context import LocalArtifacts
from coordinator import stored_files
from coordinator.stored_files import sweep_files

NOW = 1_700_000_000.0
OLD = NOW - 100


async def nothing(files: Collection[str]) -> set[str]:
    return set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


async def stored(folder: Path, content: str, moment: float = OLD) -> Path:
    source = folder.parent / "source"
    source.write_text(content)
    kept = LocalArtifacts(folder)
    place = kept.place((await kept.put(source, "f", "text/plain")).sha256)
    os.utime(place, (moment, moment))
    return place


def left(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


async def test_what_is_old_and_unnamed_goes(folder: Path):
    named, unnamed, young = [
        await stored(folder, text, moment) for text, moment in (("a", OLD), ("bb", OLD), ("ccc", NOW))
    ]

    async def told(files: Collection[str]) -> set[str]:
        assert set(files) == {named.name, unnamed.name}
        return {named.name}

    assert await sweep_files(folder, told, NOW, dry_run=True) == (1, 2)
    assert left(folder) == {named, unnamed, young}
    assert await sweep_files(folder, told, NOW) == (1, 2)
    assert left(folder) == {named, young}


async def test_a_folder_that_is_not_there_has_nothing(folder: Path):
    assert await sweep_files(folder, nothing, NOW) == (0, 0)
    assert not folder.exists()


async def test_only_what_was_stored_is_touched(folder: Path):
    await stored(folder, "x")
    others = [folder / "README", folder / "ab" / "cd" / "notes.txt", folder / "ab" / ("0" * 64)]
    unfinished = folder / "tmpk3j2h1"
    for path in (*others, unfinished):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("other")
        os.utime(path, (OLD, OLD))
    # A copy that a dead process had begun, and the file.
    assert await sweep_files(folder, nothing, NOW) == (2, 6)
    assert left(folder) == set(others)


async def test_a_file_that_is_stored_again_meanwhile_stays(folder: Path):
    place = await stored(folder, "x")

    async def again(files: Collection[str]) -> set[str]:
        assert files
        await stored(folder, "x", NOW)
        return set()

    assert await sweep_files(folder, again, NOW) == (0, 0)
    assert place.read_text() == "x"


async def test_a_file_that_is_stored_again_at_the_last_moment_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    place = await stored(folder, "x")
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        self.write_text("x")
        return moved

    monkeypatch.setattr(stored_files.Path, "rename", late)
    assert await sweep_files(folder, nothing, NOW) == (1, 1)
    assert left(folder) == {place}


async def test_a_sweep_that_was_cut_off_is_gone_on_with(folder: Path):
    place = await stored(folder, "x")
    going = place.with_name("going-" + place.name)
    place.rename(going)

    async def told(files: Collection[str]) -> set[str]:
        return set(files)

    assert await sweep_files(folder, told, NOW) == (0, 0)
    assert left(folder) == {place}


async def test_sweeps_beside_each_other_and_beside_storing(folder: Path):
    for n in range(50):
        await stored(folder, f"old {n}")
    places = await asyncio.gather(
        *(sweep_files(folder, nothing, NOW) for _ in range(3)),
        *(LocalArtifacts(folder).put(folder.parent / "source", "f", "t") for _ in range(5)),
    )
    assert sum(count for count, _ in places[:3]) in (49, 50)
    # The one that was stored again is there, whole.
    [kept] = left(folder)
    assert kept.read_text() == "old 49"
