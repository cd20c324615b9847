"""What models are loaded from, found where the settings are: replicas run elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from ray import serve

from coordinator.store.model_records import ModelVersion
from manta.config import EMBEDDED, EmbedderSettings, ModelSettings
from manta.errors import ModelLoadError
from serve_app.models.deployment import model_application

GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Picklable. `project`: the folder that relative paths are of."""

    project: Path
    log_level: str

    def application(self, version: ModelVersion, *, there: bool = False) -> serve.Application:
        """`there`: it was deployed before. Raises ModelLoadError: what it is to load is not there."""
        model = self.model(version.model, ModelSettings.model_validate(version.settings))
        return model_application(version.model, version.version, model, self.log_level, there=there)

    def model(self, name: str, model: ModelSettings) -> ModelSettings:
        """The settings with the checkpoint's path made whole. Raises ModelLoadError likewise."""
        local = self.project / Path(model.source).expanduser()
        if model.backend == "server" and local.exists():
            return model.model_copy(update={"source": str(local)})
        if model.backend != "torch" or model.source == EMBEDDED:
            return model
        return model.model_copy(update={"source": self._found(model.source, f"models.{name}.source")})

    def embedder(self, embedder: EmbedderSettings) -> EmbedderSettings:
        """Likewise."""
        if embedder.source == EMBEDDED:
            return embedder
        return embedder.model_copy(update={"source": self._found(embedder.source, "embedder.source")})

    def _found(self, source: str, key: str) -> str:
        path = self.project / Path(source).expanduser()
        if not path.exists():
            raise ModelLoadError(f"{key}: there is no file {path}", fix=f"check {key}")
        if path.suffix == ".gguf" and not _begins_with(path, GGUF_MAGIC):
            raise ModelLoadError(
                f"{key}: {path} is no GGUF file", fix="it may not have arrived whole: fetch it again"
            )
        return str(path)


def _begins_with(path: Path, magic: bytes) -> bool:
    """Raises ModelLoadError: it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise ModelLoadError(
            f"{path} cannot be read: {error.strerror}", fix="it has to be a readable file"
        ) from None
