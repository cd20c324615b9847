"""The benchmark of products: a row for each kind and number of rows, and a plain word where there are no kernels."""

import pytest

from benchmarks import kernels
from serve_app.engine.native.build import library

NATIVE = library()


@pytest.mark.skipif(NATIVE is None, reason="no compiler, or no AVX2")
async def test_each_kind_is_measured_against_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ROWS", (1, 2))
    monkeypatch.setattr(kernels, "LAYERS", 1)
    monkeypatch.setattr(kernels, "LEAST_S", 0.001)
    rows = await kernels.measure(NATIVE, rounds=1)
    assert [row.case for row in rows] == ["fp32 1", "fp32 2", "int8 1", "int8 2"]
    assert {row.peer_name for row in rows} == {"torch"}
    assert all(row.ours > 0 and row.peer > 0 for row in rows)


def test_without_kernels_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert kernels.main(["--folder", str(tmp_path)]) == 1
    assert "no compiled kernels" in capsys.readouterr().err
