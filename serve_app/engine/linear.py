"""Matrix products by kind of weight: as they are, or narrower ones that the processor reads faster.

The narrow kinds take and give float32. int8 products see their input in 8 bits too (7 without VNNI), scaled
row by row, so a request's numbers do not depend on whom it shares a batch with.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F

_GROUP = 32
_NIBBLE = 15


class Product(Protocol):
    """rows [n, in] to [n, out]."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Linear:
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return F.linear(rows, self.weight, self.bias)


class Float16Linear:
    """Weights in 16 bits, products in float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        _choose_library()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), _float(bias))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, self._packed)
        return product


class Int8Linear:
    """Weights in 8 bits, one scale for each output."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        _choose_library()
        weight = weight.float()
        scales = weight.abs().amax(1).clamp_(min=1e-12) / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch means to drop its quantised tensors one day; the packed form made of one stays.
            warnings.simplefilter("ignore", UserWarning)
            quantised = _quantize(weight, scales, zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantised, None)
        self._bias = _float(bias)
        self._narrow = not _has_vnni()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if len(rows) == 1:
            product = self._multiply(rows)
        else:
            peaks = rows.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
            product = self._multiply(rows / peaks).mul_(peaks)
        return product if self._bias is None else product.add_(self._bias)

    def _multiply(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.quantized.linear_dynamic(rows, self._packed, self._narrow)
        return product


class Int4Linear:
    """Weights in 4 bits, a scale and a zero for each 32 inputs. Fast only with AVX-512."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        weight = weight.float()
        groups = weight.reshape(weight.shape[0], -1, _GROUP)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scales = ((high - low) / _NIBBLE).clamp_(min=1e-12)
        digits = ((groups - low) / scales).round_().clamp_(0, _NIBBLE).to(torch.int32)
        # The kernel takes w = (digit - 8) * scale + zero.
        zeros = low + 8 * scales
        self._table = torch.cat((scales, zeros), dim=-1).transpose(0, 1).contiguous()
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(digits.reshape(weight.shape), 1)
        self._bias = _float(bias)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self._packed, _GROUP, self._table
        )
        return product if self._bias is None else product.add_(self._bias)


LinearKind = Callable[[torch.Tensor, torch.Tensor | None], Product]


def fits_int4(weight: torch.Tensor) -> bool:
    return weight.shape[0] % 16 == 0 and weight.shape[1] % _GROUP == 0


_quantize: Any = torch.quantize_per_channel


def _float(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.float()


@cache
def _has_vnni() -> bool:
    return bool(getattr(torch.cpu, "_is_vnni_supported", bool)())


def _choose_library() -> None:
    if "x86" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "x86"
