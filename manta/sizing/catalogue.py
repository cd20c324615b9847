"""Shapes of published models, each from the `config.json` of its repository on Hugging Face."""

from manta.sizing.shapes import ModelShape


def _row(
    name: str,
    repository: str,
    sizes: tuple[int, int, int, int, int, int, int, int],
    flags: str = "",
) -> ModelShape:
    """`sizes`: layers, hidden, heads, KV heads, width of a head, MLP, vocabulary, context."""
    layers, hidden, heads, kv_heads, head_dim, feed_forward, vocabulary, context = sizes
    words = flags.split()
    return ModelShape(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=feed_forward,
        vocabulary=vocabulary,
        context=context,
        tied="tied" in words,
        qkv_bias="bias" in words,
        qk_norm="qk_norm" in words,
        source=f"huggingface.co/{repository}, config.json",
    )


_ROWS = (
    _row("llama-3.2-1b", "meta-llama/Llama-3.2-1B", (16, 2048, 32, 8, 64, 8192, 128256, 131072), "tied"),
    _row("llama-3.2-3b", "meta-llama/Llama-3.2-3B", (28, 3072, 24, 8, 128, 8192, 128256, 131072), "tied"),
    _row("llama-3.1-8b", "meta-llama/Llama-3.1-8B", (32, 4096, 32, 8, 128, 14336, 128256, 131072)),
    _row("llama-3.1-70b", "meta-llama/Llama-3.1-70B", (80, 8192, 64, 8, 128, 28672, 128256, 131072)),
    _row("mistral-7b", "mistralai/Mistral-7B-v0.3", (32, 4096, 32, 8, 128, 14336, 32768, 32768)),
    _row("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", (24, 896, 14, 2, 64, 4864, 151936, 32768), "tied bias"),
    _row("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", (28, 1536, 12, 2, 128, 8960, 151936, 131072), "tied bias"),
    _row("qwen2.5-3b", "Qwen/Qwen2.5-3B", (36, 2048, 16, 2, 128, 11008, 151936, 32768), "tied bias"),
    _row("qwen2.5-7b", "Qwen/Qwen2.5-7B", (28, 3584, 28, 4, 128, 18944, 152064, 131072), "bias"),
    _row("qwen2.5-14b", "Qwen/Qwen2.5-14B", (48, 5120, 40, 8, 128, 13824, 152064, 131072), "bias"),
    _row("qwen2.5-32b", "Qwen/Qwen2.5-32B", (64, 5120, 40, 8, 128, 27648, 152064, 131072), "bias"),
    _row("qwen2.5-72b", "Qwen/Qwen2.5-72B", (80, 8192, 64, 8, 128, 29568, 152064, 131072), "bias"),
    _row("qwen3-0.6b", "Qwen/Qwen3-0.6B", (28, 1024, 16, 8, 128, 3072, 151936, 40960), "tied qk_norm"),
    _row("qwen3-1.7b", "Qwen/Qwen3-1.7B", (28, 2048, 16, 8, 128, 6144, 151936, 40960), "tied qk_norm"),
    _row("qwen3-4b", "Qwen/Qwen3-4B", (36, 2560, 32, 8, 128, 9728, 151936, 40960), "tied qk_norm"),
    _row("qwen3-8b", "Qwen/Qwen3-8B", (36, 4096, 32, 8, 128, 12288, 151936, 40960), "qk_norm"),
    _row("qwen3-14b", "Qwen/Qwen3-14B", (40, 5120, 40, 8, 128, 17408, 151936, 40960), "qk_norm"),
    _row("qwen3-32b", "Qwen/Qwen3-32B", (64, 5120, 64, 8, 128, 25600, 151936, 40960), "qk_norm"),
    _row("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", (30, 576, 9, 3, 64, 1536, 49152, 8192), "tied"),
    _row("smollm2-360m", "HuggingFaceTB/SmolLM2-360M", (32, 960, 15, 5, 64, 2560, 49152, 8192), "tied"),
    _row("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", (24, 2048, 32, 32, 64, 8192, 49152, 8192), "tied"),
)

MODELS = {shape.name: shape for shape in _ROWS}
EMBEDDED_MODEL = "smollm2-135m"
"""What `source: embedded` runs."""
