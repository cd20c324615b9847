"""The shape of a decoder-only transformer, and what follows from it: parameters, bytes of weights and of KV."""

from dataclasses import dataclass

from manta.errors import InvalidInput

BITS = {"fp32": 32.0, "bf16": 16.0, "fp8": 8.0, "int8": 8.0, "int4": 4.5}
"""Bits of one weight by type. int4 has a 16-bit scale for each group of 32."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a dense model with a gated MLP (Llama, Mistral, Qwen2, Qwen3). `context` is in tokens.

    `source`: the document the sizes were read from.

    Raises:
        InvalidInput: sizes that no model can have.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    source: str

    def __post_init__(self) -> None:
        sizes = (self.layers, self.hidden, self.heads, self.kv_heads, self.head_dim, self.feed_forward)
        if min(*sizes, self.vocabulary, self.context) < 1 or self.heads % self.kv_heads:
            raise InvalidInput(f"{self.name}: impossible sizes", fix="get its configuration again")

    @property
    def products(self) -> int:
        """Weights of all layers that a token is multiplied with: attention and MLP, without the head."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def head(self) -> int:
        """Weights of the output head: one product for each token that is chosen."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden + (2 * self.layers * self.head_dim if self.qk_norm else 0)
        biases = self.layers * self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        return self.products + norms + biases + self.head * (1 if self.tied else 2)

    def weight_bytes(self, dtype: str) -> float:
        return self.parameters * BITS[dtype] / 8

    def read_bytes(self, dtype: str) -> float:
        """Bytes of weights that one step reads: all but the table of embeddings, of which it reads a few rows."""
        return (self.products + self.head) * BITS[dtype] / 8

    def kv_bytes(self, dtype: str) -> float:
        """Bytes that one token keeps in KV memory."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BITS[dtype] / 8

    def splits_over(self, gpus: int) -> bool:
        """Whether heads, KV heads and MLP divide evenly over so many GPUs."""
        return not (self.heads % gpus or self.kv_heads % gpus or self.feed_forward % gpus)
