"""Sentence embeddings by MiniLM (a small BERT): own forward pass, mean pooling, unit length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError

from manta.errors import ModelLoadError
from serve_app.engine.checkpoint import open_safetensors, read_json
from serve_app.engine.heap import give_back
from serve_app.engine.linear import Linear
from serve_app.engine.loader import choose_dtype
from serve_app.engine.tokenizer import Tokenizer, tokenizer_from_file

_MAX_TOKENS = 256
# Tokens, padding included, in one forward pass: bounds the memory of activations, which is about 50 KiB a token. Two
# cores are busy with these, and gain less than a tenth by four times as many.
_BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(rows, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    output: Linear
    output_norm: _Norm
    up: Linear
    down: Linear
    down_norm: _Norm


@dataclass(frozen=True, slots=True)
class Encoder:
    """The forward pass of a small BERT."""

    words: torch.Tensor
    positions: torch.Tensor
    norm: _Norm
    layers: tuple[_Layer, ...]
    heads: int

    @property
    def longest(self) -> int:
        """Tokens of the longest text that has positions."""
        return len(self.positions)

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Hidden states [texts, tokens, width] from ids and mask [texts, tokens], True on real tokens."""
        texts, tokens = ids.shape
        hidden = self.norm(F.embedding(ids, self.words) + self.positions[:tokens])
        seen = mask[:, None, None, :]
        for layer in self.layers:
            split = layer.qkv(hidden).view(texts, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=seen)
            hidden = layer.output_norm(hidden + layer.output(mixed.transpose(1, 2).flatten(2)))
            hidden = layer.down_norm(hidden + layer.down(F.gelu(layer.up(hidden))))
        return hidden


@dataclass(frozen=True, slots=True)
class EmbeddingStats:
    """Since the start: texts embedded, forward passes of the model, tokens read (padding not counted)."""

    texts: int = 0
    passes: int = 0
    tokens: int = 0

    def plus(self, texts: int, passes: int, tokens: int) -> "EmbeddingStats":
        return EmbeddingStats(self.texts + texts, self.passes + passes, self.tokens + tokens)


Hidden: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A pass of the model; see `Encoder.__call__` for what goes in and out."""


def load_parts(path: Path, dtype: str = "auto") -> tuple[Encoder, Tokenizer]:
    """Load a folder with config.json, tokenizer.json and model.safetensors. Raises ModelLoadError."""
    config = read_json(path / "config.json")
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ModelLoadError(f"{path} is not a BERT model with GELU", fix="name a MiniLM folder")
    kind = choose_dtype(dtype, torch.device("cpu"))
    tokenizer = tokenizer_from_file(path / "tokenizer.json")
    try:
        return _load_encoder(path, config, kind), tokenizer
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ModelLoadError(f"{path} lacks part of the model: {error}", fix="get the files again") from error


class SentenceEmbedder:
    """Texts to unit vectors. `width` is the number of dimensions, `max_tokens` where a text is cut.

    `hidden` makes the passes in the encoder's place, whose weights are then not kept.
    """

    def __init__(
        self, encoder: Encoder, tokenizer: Tokenizer, threads: int, hidden: Hidden | None = None
    ) -> None:
        self._hidden: Hidden = hidden or encoder
        self._tokenizer = tokenizer
        self._threads = threads
        self.width = int(encoder.words.shape[1])
        self.max_tokens = min(_MAX_TOKENS, encoder.longest)
        self._counts = EmbeddingStats()

    @classmethod
    def load(cls, path: Path, threads: int = 0, dtype: str = "auto") -> "SentenceEmbedder":
        """As `load_parts`, put together."""
        return cls(*load_parts(path, dtype), threads)

    @property
    def stats(self) -> EmbeddingStats:
        return self._counts

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(texts), width], in the order of the texts. Texts of like length share a pass."""
        return self.encode_counted(texts)[0]

    @torch.inference_mode()
    def encode_counted(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[int]]:
        """As `encode`, and the tokens of each text that were read: special ones included, what is cut off not."""
        if self._threads > 0:
            torch.set_num_threads(self._threads)
        ids = [self._ids(text) for text in texts]
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        groups = _groups(ids)
        for group in groups:
            vectors[group] = self._pool([ids[index] for index in group])
        if len(groups) > 1:
            give_back()
        lengths = [len(row) for row in ids]
        self._counts = self._counts.plus(len(texts), len(groups), sum(lengths))
        return vectors, lengths

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=True)
        return ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], ids[-1]]

    def _pool(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        longest = max(len(row) for row in ids)
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        hidden = self._hidden(padded, mask).float() * mask[:, :, None]
        means = hidden.sum(dim=1) / lengths[:, None]
        return np.asarray(F.normalize(means, dim=1).numpy(), dtype=np.float32)


def _groups(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of the texts, shortest first, cut so that no group pads beyond the batch size."""
    groups: list[list[int]] = []
    for index in sorted(range(len(ids)), key=lambda i: len(ids[i])):
        if groups and (len(groups[-1]) + 1) * len(ids[index]) <= _BATCH_TOKENS:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _load_encoder(path: Path, config: dict[str, Any], dtype: torch.dtype) -> Encoder:
    eps = float(config["layer_norm_eps"])
    with open_safetensors(path / "model.safetensors") as file:

        def read(name: str) -> torch.Tensor:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor.to(dtype)

        def linear(*prefixes: str) -> Linear:
            weights = torch.cat([read(f"{prefix}.weight") for prefix in prefixes])
            return Linear(weights, torch.cat([read(f"{prefix}.bias") for prefix in prefixes]))

        def norm(prefix: str) -> _Norm:
            return _Norm(read(f"{prefix}.weight"), read(f"{prefix}.bias"), eps)

        def layer(index: int) -> _Layer:
            at = f"encoder.layer.{index}"
            own = f"{at}.attention.self"
            return _Layer(
                qkv=linear(f"{own}.query", f"{own}.key", f"{own}.value"),
                output=linear(f"{at}.attention.output.dense"),
                output_norm=norm(f"{at}.attention.output.LayerNorm"),
                up=linear(f"{at}.intermediate.dense"),
                down=linear(f"{at}.output.dense"),
                down_norm=norm(f"{at}.output.LayerNorm"),
            )

        # One text has only the first token type, so its embedding is a constant added to the positions.
        kinds = read("embeddings.token_type_embeddings.weight")
        return Encoder(
            words=read("embeddings.word_embeddings.weight"),
            positions=read("embeddings.position_embeddings.weight") + kinds[0],
            norm=norm("embeddings.LayerNorm"),
            layers=tuple(layer(index) for index in range(int(config["num_hidden_layers"]))),
            heads=int(config["num_attention_heads"]),
        )
