"""A matrix product with weights in 8 bits and activations in up to 16, in compiled code."""

from ctypes import CDLL, byref, c_int64, c_void_p

import torch
import torch.nn.functional as F

from serve_app.engine.native.shapes import CProduct, address

_OUTPUTS = 16
_WIDEST = 60_000
"""Inputs: more would leave activations fewer than 8 bits."""

_ERROR = 0.01


def fits(weight: torch.Tensor) -> bool:
    """Whether a weight [out, in] can be packed."""
    return weight.shape[0] % _OUTPUTS == 0 and weight.shape[1] % 2 == 0 and weight.shape[1] <= _WIDEST


class NativeInt8Linear:
    """Weights in 8 bits, one scale for each output; activations in 13 to 16 bits, one scale for each row."""

    def __init__(self, library: CDLL, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        weight = weight.float()
        scales = weight.abs().amax(1).clamp_(min=1e-12) / 127
        digits = (weight / scales[:, None]).round_().to(torch.int8).contiguous()
        packed = torch.empty_like(digits)
        outputs, inputs = digits.shape
        sizes = c_int64(outputs), c_int64(inputs)
        library.pack_int8(c_void_p(address(digits)), *sizes, c_void_p(address(packed)))
        self._library = library
        self._kept = (packed, scales, None if bias is None else bias.float().contiguous())
        self.shape = CProduct(*(address(tensor) for tensor in self._kept), inputs, outputs)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        count, rows = len(rows), rows.contiguous()
        narrow = torch.empty(rows.shape, dtype=torch.int16)
        scales = torch.empty(count)
        product = torch.empty(count, self.shape.outputs)
        places = (c_void_p(address(tensor)) for tensor in (rows, narrow, scales, product))
        self._library.multiply_rows(byref(self.shape), c_int64(count), *places)
        return product


def multiplies_rightly(library: CDLL) -> bool:
    """Whether the compiled code does on this processor what it should."""
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(32, 22, generator=generator), torch.randn(32, generator=generator)
    rows = torch.randn(7, 22, generator=generator)
    exact = F.linear(rows, weight, bias)
    found = NativeInt8Linear(library, weight, bias)(rows)
    return float((found - exact).norm()) < _ERROR * float(exact.norm())
