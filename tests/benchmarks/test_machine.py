"""The machine is named, and a folder in memory is refused: a flush would cost nothing there."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import machine


def test_the_machine_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "file_system", lambda folder: "ext4")
    found = machine.describe(tmp_path, ["ray"])
    assert found.cores >= 1
    assert found.flush_ms > 0
    assert found.packages["ray"].startswith("2.")
    assert found.to_json()["file_system"] == "ext4"


def test_a_folder_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "file_system", lambda folder: "tmpfs")
    with pytest.raises(ValueError, match="choose a folder on a disk"):
        machine.describe(tmp_path, [])


def test_the_innermost_mount_decides(monkeypatch: pytest.MonkeyPatch):
    kinds = {"/": "ext4", "/mem": "tmpfs", "/me": "xfs"}
    mounts = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in kinds.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert machine.file_system(Path("/mem/deep/er")) == "tmpfs"
    assert machine.file_system(Path("/memory")) == "ext4"
