"""Hugging Face transformers' own continuous batching, used as its documentation shows."""

import asyncio
import time
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

PAGE = 32
BLOCKS = 256
_NAMES = signature(ContinuousBatchingConfig).parameters
# Renamed between 5.17 and 5.23.
_PAGES: dict[str, Any] = {"page_size" if "page_size" in _NAMES else "block_size": PAGE, "num_blocks": BLOCKS}

Encode: TypeAlias = Callable[[str], list[int]]


def from_gguf(path: Path) -> LlamaForCausalLM:
    """The model of a GGUF file of the llama family, in float32, as one that can be saved too."""
    # transformers leaves these without types.
    read_file: Any = load_gguf_checkpoint
    model: Any = LlamaForCausalLM(LlamaConfig(**read_file(str(path))["config"]))
    read = read_file(str(path), return_tensors=True, model_to_load=model)
    model.load_state_dict(read["tensors"], strict=False)
    model.tie_weights()
    loaded: LlamaForCausalLM = model.eval()
    return loaded


class TransformersPeer:
    name = "transformers"

    def __init__(self, path: Path, dtype: torch.dtype, encode: Encode, device: str = "cpu") -> None:
        """`path`: a GGUF file of the llama family, or a folder of any model."""
        model: Any = (
            AutoModelForCausalLM.from_pretrained(path, dtype=dtype) if path.is_dir() else from_gguf(path)
        )
        self._model = model.to(device=device, dtype=dtype).eval()
        self._encode = encode

    async def decode(self, prompts: Sequence[str], new_tokens: int) -> float:
        """Tokens per second of all prompts at once."""
        return await asyncio.to_thread(self._decode, [self._encode(text) for text in prompts], new_tokens)

    async def prefill(self, prompt: str) -> float:
        """Prompt tokens per second of one forward pass."""
        return await asyncio.to_thread(self._prefill, self._encode(prompt))

    def _decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        settings: Any = GenerationConfig
        generation = settings(max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        batching = ContinuousBatchingConfig(**_PAGES, max_batch_tokens=512)
        began = time.perf_counter()
        made = self._model.generate_batch(
            inputs=prompts,
            generation_config=generation,
            continuous_batching_config=batching,
            max_new_tokens=new_tokens,
        )
        seconds = time.perf_counter() - began
        tokens = sum(len(output.generated_tokens) for output in made.values())
        if tokens != new_tokens * len(prompts):
            raise RuntimeError(f"transformers made {tokens} tokens")
        return tokens / seconds

    def _prefill(self, prompt: list[int]) -> float:
        began = time.perf_counter()
        ids = torch.tensor([prompt], device=self._model.device)
        with torch.inference_mode():
            # Reading the token waits for a GPU.
            self._model(input_ids=ids, logits_to_keep=1).logits.argmax().item()
        return len(prompt) / (time.perf_counter() - began)
