"""Reads GGUF files: the metadata as plain Python values, the tensors dequantised one at a time.

The parser is ours because the `gguf` package's reader keeps a numpy view per vocabulary entry, which
costs seconds and memory, and trusts every length in the file; its dequantisation is used as it is.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manta.errors import ModelLoadError

_FIX = "get the file again"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies. `shape` is in torch's order (rows first); `kind` is the GGML type number."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


class GgufFile:
    """An open GGUF file. Raises ModelLoadError when it is missing, cut off or not GGUF."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"cannot read {path}: {error}", fix="check the path") from error
        self._at = 0
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        try:
            self._parse()
        except (struct.error, UnicodeDecodeError, KeyError, ValueError, IndexError, MemoryError) as error:
            raise ModelLoadError(f"{path} is not a whole GGUF file: {error!r}", fix=_FIX) from error

    def _parse(self) -> None:
        if self._bytes[:4] != b"GGUF":
            raise ModelLoadError(f"{self.path} is not a GGUF file", fix="name a .gguf file or a model folder")
        self._at = 4
        version = self._number("I")
        if version not in (2, 3):
            raise ModelLoadError(f"{self.path} has GGUF version {version}", fix="convert it to version 3")
        tensor_count, value_count = self._number("Q"), self._number("Q")
        for _ in range(value_count):
            name = self._string()
            self.metadata[name] = self._value(self._number("I"))
        infos = [self._tensor_info() for _ in range(tensor_count)]
        alignment = int(self.metadata.get("general.alignment", 32))
        base = -(-self._at // alignment) * alignment
        for name, shape, kind, offset in infos:
            self._place(name, shape, kind, base + offset)

    def _number(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self._bytes, self._at)[0]
        self._at += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        length = self._number("Q")
        raw = self._bytes[self._at : self._at + length]
        if len(raw) < length:
            raise ValueError("the file ends inside a string")
        self._at += length
        return raw.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        inner, count = self._number("I"), self._number("Q")
        if inner not in _SCALARS:
            return [self._value(inner) for _ in range(count)]
        code = f"<{count}{_SCALARS[inner]}"
        values = list(struct.unpack_from(code, self._bytes, self._at))
        self._at += struct.calcsize(code)
        return values

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._string(), self._number("I")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        kind, offset = self._number("I"), self._number("Q")
        return name, shape, kind, offset

    def _place(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> None:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if not shape or shape[-1] % block:
            raise ValueError(f"tensor {name} has shape {shape}")
        size = prod(shape) // block * block_bytes
        if start + size > len(self._bytes):
            raise ValueError(f"the file ends inside tensor {name}")
        self.tensors[name] = GgufTensor(name, shape, kind, start, size)

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor dequantised to float32, in torch's order. May be a read-only view of the file."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        flat = np.frombuffer(self._bytes, dtype=np.uint8, count=tensor.size, offset=tensor.start)
        rows = flat.reshape(*tensor.shape[:-1], -1)
        try:
            values = dequantize(rows, GGMLQuantizationType(tensor.kind))
        except NotImplementedError as error:
            raise ModelLoadError(
                f"{self.path} uses a quantisation that cannot be read: {error}", fix=_FIX
            ) from error
        return np.asarray(values, dtype=np.float32).reshape(tensor.shape)
