"""MiniLM in ONNX Runtime with 8-bit weights: exported from our own forward pass, without a network, and kept."""

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from manta.errors import ModelLoadError
from serve_app.engine.embeddings import Encoder, Hidden, SentenceEmbedder, load_parts

_RECIPE = "int8-1"
"""Part of the kept file's name; to be changed with what is made here."""
_FIX = "pip install 'manta[onnx]', or set embedder.backend to torch"


def load_onnx_embedder(path: Path, cache: Path, threads: int = 0) -> SentenceEmbedder:
    """As `SentenceEmbedder.load`, in ONNX Runtime. The first time takes half a minute and writes into `cache`.

    Args:
        path: a folder with config.json, tokenizer.json and model.safetensors.
        cache: holds a file for each set of weights, named by their hash.
        threads: of one pass; 0 is ONNX Runtime's choice, the physical cores.

    Raises:
        ModelLoadError: ONNX Runtime is not installed, or the folder is not such a model.
    """
    encoder, tokenizer = load_parts(path, dtype="float32")
    session = _session(quantised_file(path, cache, encoder), threads)
    return SentenceEmbedder(encoder, tokenizer, threads, session)


def quantised_file(path: Path, cache: Path, encoder: Encoder) -> Path:
    """The ONNX file of the weights in `path`, made when `cache` does not have it yet."""
    with (path / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    target = cache / f"{digest[:32]}-{_RECIPE}.onnx"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that it appears there wholly or not at all.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _export(encoder, Path(folder) / "exact.onnx")
            _quantise(Path(folder) / "exact.onnx", Path(folder) / "int8.onnx")
            os.replace(Path(folder) / "int8.onnx", target)
    return target


class _Exported(torch.nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self._encoder(ids, mask)


def _export(encoder: Encoder, target: Path) -> None:
    texts, tokens = torch.export.Dim("texts"), torch.export.Dim("tokens", max=encoder.longest)
    shape = {0: texts, 1: tokens}
    example = (torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.bool))
    try:
        with torch.no_grad():
            torch.onnx.export(
                _Exported(encoder),
                example,
                str(target),
                dynamo=True,
                input_names=["ids", "mask"],
                output_names=["hidden"],
                dynamic_shapes={"ids": shape, "mask": shape},
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise ModelLoadError(f"the embedder cannot be exported: {error}", fix=_FIX) from None


def _quantise(exact: Path, target: Path) -> None:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]
    except ImportError as error:
        raise ModelLoadError(f"the embedder cannot be quantised: {error}", fix=_FIX) from None
    # It advises on the root logger to prepare the model, which the exporter has done.
    logging.getLogger().addFilter(_not_advice)
    try:
        # By channel and in 7 bits: sums of 8-bit products overflow on processors without VNNI.
        quantize_dynamic(
            str(exact),
            str(target),
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
    finally:
        logging.getLogger().removeFilter(_not_advice)


def _not_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


def _session(file: Path, threads: int) -> Hidden:
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise ModelLoadError(f"ONNX Runtime cannot be imported: {error}", fix=_FIX) from None
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def hidden(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})[0])

    return hidden
