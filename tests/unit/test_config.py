"""Settings: where values come from, and what is refused."""

from pathlib import Path

import pytest

from manta.config import Settings, load_settings, secret
from manta.errors import InvalidConfig


def write(folder: Path, text: str) -> Path:
    path = folder / "manta.yaml"
    path.write_text(text)
    return path


def test_defaults_need_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {})
    assert settings.default_model == "smollm2"
    assert settings.address == "http://127.0.0.1:8000"
    assert not settings.ships_code
    assert settings.journal_url.startswith("sqlite:///")


def test_the_command_line_beats_the_environment_beats_the_file(tmp_path: Path):
    path = write(tmp_path, "server: {port: 1001}\nhome: /from/file\n")
    environment = {"MANTA_PORT": "1002", "MANTA_HOME": str(tmp_path / "env")}
    settings = load_settings(path, environment, {"server.port": 1003})
    assert settings.server.port == 1003
    assert settings.home == tmp_path / "env"
    assert load_settings(path, {}).server.port == 1001


def test_one_agent_or_model_keeps_the_others(tmp_path: Path):
    settings = load_settings(
        write(tmp_path, "agents: {mine: {use: 'a:b'}}\nmodels: {m: {backend: sleep}}"), {}
    )
    assert {"planner", "research", "analyst", "writer", "mine"} <= settings.agents.keys()
    assert settings.models.keys() == {"smollm2", "m"}
    assert settings.ships_code
    assert settings.project == tmp_path


def test_null_takes_the_embedded_model_away(tmp_path: Path):
    path = tmp_path / "manta.yaml"
    path.write_text("default_model: m\nmodels: {smollm2: null, m: {backend: sleep}}\n")
    assert load_settings(path, {}).models.keys() == {"m"}
    path.write_text("models: {smollm2: null, m: {backend: sleep}}\n")
    with pytest.raises(InvalidConfig, match="'smollm2' is not among models: m"):
        load_settings(path, {})
    path.write_text("models: {m: null}\n")
    with pytest.raises(InvalidConfig, match=r"models\.m"):
        load_settings(path, {})


def test_models_may_have_a_file_of_their_own(tmp_path: Path):
    path = write(tmp_path, "models: {m: {backend: sleep}}")
    (tmp_path / "models.yaml").write_text("n: {backend: sleep}")
    assert load_settings(path, {}).models.keys() == {"smollm2", "m", "n"}
    (tmp_path / "models.yaml").write_text("m: {backend: sleep}")
    with pytest.raises(InvalidConfig, match=r"'m' is also in manta\.yaml"):
        load_settings(path, {})
    (tmp_path / "models.yaml").write_text("n: {backend: none}")
    with pytest.raises(InvalidConfig, match=r"models\.n\.backend") as refused:
        load_settings(path, {})
    assert "models.yaml" in refused.value.fix


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("serverr: {}", "serverr: Extra inputs"),
        ("server: {port: 99999}", "server.port"),
        ("default_model: none", "'none' is not among models"),
        ("models: {m: {backend: remote}}", "needs base_url"),
        ("models: {m: {backend: remote, base_url: 'http://h/v1?key=x'}}", "neither ? nor #"),
        ("models: {m: {backend: remote, base_url: 'http://h/v1#x'}}", "neither ? nor #"),
        ("models: {m: {replicas: {min: 3, max: 2}}}", "replicas.max"),
        ("agents: {a: {use: nothing}}", "agents.a.use"),
        ("- a list", "must hold a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, cause: str):
    with pytest.raises(InvalidConfig) as refused:
        load_settings(write(tmp_path, text), {})
    assert cause in str(refused.value)
    assert refused.value.fix


def test_a_named_file_must_exist(tmp_path: Path):
    with pytest.raises(InvalidConfig, match="cannot read"):
        load_settings(tmp_path / "none.yaml", {})


def test_a_missing_key_names_its_variable():
    with pytest.raises(InvalidConfig, match="SOME_KEY is not set"):
        secret("SOME_KEY", {})
    assert secret("SOME_KEY", {"SOME_KEY": "k"}) == "k"


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().default_model = "x"  # type: ignore[misc]
