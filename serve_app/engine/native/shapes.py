"""The structures and the sizes of `kernels.cpp` and `products.hpp`: the same there, field by field."""

from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from typing import Any, ClassVar

import torch

Fields = list[tuple[str, Any]]

OUTPUTS, FEW_ROWS, QUERIES = 16, 4, 48
"""`kOuts`, `kFewRows`, `kQueries`."""


class CProduct(Structure):
    _fields_: ClassVar[Fields] = [
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
    ]


class CLayer(Structure):
    _fields_: ClassVar[Fields] = [
        ("input_norm", c_void_p),
        ("qkv", CProduct),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("output", CProduct),
        ("post_norm", c_void_p),
        ("gate_up", CProduct),
        ("down", CProduct),
    ]


class CModel(Structure):
    _fields_: ClassVar[Fields] = [
        ("layers", POINTER(CLayer)),
        ("norm", c_void_p),
        ("head", CProduct),
        ("turns", c_void_p),
        ("layer_count", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("feed_forward", c_int64),
        ("eps", c_float),
    ]


class CCache(Structure):
    _fields_: ClassVar[Fields] = [
        ("keys", POINTER(c_void_p)),
        ("values", POINTER(c_void_p)),
        ("page", c_int64),
    ]


class CStep(Structure):
    _fields_: ClassVar[Fields] = [
        ("rows", c_int64),
        ("blocks", c_void_p),
        ("block_count", c_int64),
        ("pages", c_void_p),
        ("stride", c_int64),
        ("wanted", c_void_p),
        ("wanted_count", c_int64),
        ("single", c_int64),
    ]


class CScratch(Structure):
    _fields_: ClassVar[Fields] = [
        ("ready", c_void_p),
        ("ready_scale", c_void_p),
        ("room", c_void_p),
        ("wide", c_void_p),
        ("mixed", c_void_p),
        ("scores", c_void_p),
        ("tiles", c_void_p),
        ("queries", c_int64),
        ("longest", c_int64),
        ("widest", c_int64),
    ]


def address(tensor: torch.Tensor | None) -> int | None:
    """Where a tensor's numbers lie; whoever takes it must keep the tensor."""
    if tensor is None:
        return None
    if not tensor.is_contiguous():
        raise ValueError("compiled code reads contiguous tensors only")
    return tensor.data_ptr()
