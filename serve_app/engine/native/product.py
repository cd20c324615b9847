"""Matrix products in compiled code: of float32, and of weights in 8 bits with activations in up to 16."""

from ctypes import CDLL, byref, c_int64, c_void_p

import torch
import torch.nn.functional as F

from serve_app.engine.native.shapes import OUTPUTS, CProduct, address

_WIDEST = 60_000
"""Inputs: more would leave activations fewer than 8 bits."""

_INT8_ERROR = 0.01
_FLOAT_ERROR = 1e-5


def fits_int8(weight: torch.Tensor) -> bool:
    """Whether a weight [out, in] can be packed in 8 bits."""
    return weight.shape[0] % OUTPUTS == 0 and weight.shape[1] % 2 == 0 and weight.shape[1] <= _WIDEST


def fits_float32(weight: torch.Tensor) -> bool:
    """Whether a weight [out, in] can be packed as it is."""
    return weight.shape[0] % OUTPUTS == 0 and weight.dtype == torch.float32 and weight.device.type == "cpu"


class NativeLinear:
    """Weights in float32, [out / 16, in, 16]."""

    def __init__(self, library: CDLL, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        outputs, inputs = weight.shape
        self._packed = weight.view(-1, OUTPUTS, inputs).transpose(1, 2).contiguous()
        self._library = library
        self._bias = bias
        self.shape = CProduct(address(self._packed), None, address(bias), inputs, outputs)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.contiguous()
        scales, product = torch.empty(len(rows)), torch.empty(len(rows), self.shape.outputs)
        # The rows are taken as they lie.
        places = (c_void_p(address(tensor)) for tensor in (rows, rows, scales, product))
        self._library.multiply_rows(byref(self.shape), c_int64(len(rows)), *places)
        return product

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The weights [ids, in] of these outputs."""
        return self._packed[ids // OUTPUTS, :, ids % OUTPUTS]


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
    return all(
        float((kind(library, weight, bias)(rows) - exact).norm()) < error * float(exact.norm())
        for kind, error in ((NativeInt8Linear, _INT8_ERROR), (NativeLinear, _FLOAT_ERROR))
    )
