"""Hugging Face transformers' own continuous batching, used as its documentation shows."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

PAGE = 32
BLOCKS = 256


class TransformersPeer:
    name = "transformers"

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        """`path`: a GGUF file of the llama family."""
        # transformers leaves these without types.
        read_file: Any = load_gguf_checkpoint
        model: Any = LlamaForCausalLM(LlamaConfig(**read_file(str(path))["config"]))
        model.eval()
        read = read_file(str(path), return_tensors=True, model_to_load=model)
        model.load_state_dict(read["tensors"], strict=False)
        model.tie_weights()
        self._model = model.to(dtype)

    def decode(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> float:
        """Tokens per second of all prompts at once."""
        settings: Any = GenerationConfig
        generation = settings(max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        batching = ContinuousBatchingConfig(page_size=PAGE, num_blocks=BLOCKS, max_batch_tokens=512)
        began = time.perf_counter()
        made = self._model.generate_batch(
            inputs=[list(prompt) for prompt in prompts],
            generation_config=generation,
            continuous_batching_config=batching,
            max_new_tokens=new_tokens,
        )
        seconds = time.perf_counter() - began
        tokens = sum(len(output.generated_tokens) for output in made.values())
        if tokens != new_tokens * len(prompts):
            raise RuntimeError(f"transformers made {tokens} tokens")
        return tokens / seconds

    def prefill(self, prompt: Sequence[int]) -> float:
        """Prompt tokens per second of one forward pass."""
        ids = torch.tensor([list(prompt)])
        began = time.perf_counter()
        with torch.inference_mode():
            self._model(input_ids=ids, logits_to_keep=1)
        return len(prompt) / (time.perf_counter() - began)
