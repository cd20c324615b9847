"""From the embedder's settings to what embeds."""

from pathlib import Path

from manta.model_settings import EMBEDDED, EmbedderSettings
from serve_app.engine.embeddings import SentenceEmbedder
from serve_app.engine.weights import embedded_embedder_path


def load_embedder(settings: EmbedderSettings, home: Path) -> SentenceEmbedder:
    """Blocking; may take half a minute. What is made of the weights is kept in `home`. Raises ModelLoadError."""
    path = embedded_embedder_path() if settings.source == EMBEDDED else Path(settings.source)
    if settings.backend == "torch":
        return SentenceEmbedder.load(path, threads=settings.threads)
    from serve_app.engine.onnx_embeddings import load_onnx_embedder

    return load_onnx_embedder(path, home / "onnx", threads=settings.threads)
