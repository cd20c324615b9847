"""Models of a real size with random weights, where no weights can be had: speed does not depend on their values."""

import gc
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.engine_load import WORDS

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "vocab_size": 4096}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    # The shapes of Llama 3.2 1B and Llama 3.1 8B, by their config.json.
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False},
}
CONTEXT = 8192


def write_model(folder: Path, size: str, dtype: torch.dtype, device: torch.device) -> None:
    """A Llama as safetensors, and a tokenizer to which each word of the load is one token, in `folder`."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=CONTEXT)
    with device:
        # Made where random numbers are cheap, and in the type that is kept.
        torch.set_default_dtype(dtype)
        try:
            model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    del model
    gc.collect()
    if device.type == "cuda":
        # Or the device's memory stays with torch.
        torch.cuda.empty_cache()
    _tokenizer().save(str(folder / "tokenizer.json"))


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=2048, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 2, trainer)
    return tokenizer
