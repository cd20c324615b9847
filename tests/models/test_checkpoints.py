"""What models are loaded from is looked at before anything starts."""

from pathlib import Path

import pytest

from manta.errors import ModelLoadError
from manta.model_settings import ModelSettings
from serve_app.models.checkpoints import GGUF_MAGIC, Checkpoints


def found(project: Path, **settings: object) -> str:
    return Checkpoints(project, "INFO").model("m", ModelSettings.model_validate(settings)).source


def test_a_path_is_of_the_project(tmp_path: Path):
    (tmp_path / "m.gguf").write_bytes(GGUF_MAGIC + b"rest")
    assert found(tmp_path, source="m.gguf") == str(tmp_path / "m.gguf")
    (tmp_path / "folder").mkdir()
    assert found(tmp_path, source="folder") == str(tmp_path / "folder")
    assert found(tmp_path) == "embedded"


def test_what_is_not_there_or_no_gguf_is_named(tmp_path: Path):
    with pytest.raises(ModelLoadError, match=r"models\.m\.source: there is no file .*none\.gguf"):
        found(tmp_path, source="none.gguf")
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    with pytest.raises(ModelLoadError, match=r"page\.gguf is no GGUF file"):
        found(tmp_path, source="page.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ModelLoadError, match=r"folder\.gguf cannot be read: Is a directory"):
        found(tmp_path, source="folder.gguf")


def test_a_server_may_be_given_a_name(tmp_path: Path):
    launch = {"command": ["serve", "{source}"]}
    assert found(tmp_path, backend="server", source="org/model", launch=launch) == "org/model"
