"""A random model as a folder that other programs load too."""

from pathlib import Path

from tests.engine.support import small_tokenizer

TEMPLATE = "{% for message in messages %}<s>{{ message.content }}</s>{% endfor %}"


def tiny_model(folder: Path, hidden: int = 32) -> Path:
    """Two layers of two heads, whose answers never end by themselves."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = PreTrainedTokenizerFast(
        tokenizer_object=small_tokenizer(folder), bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    tokens.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_attention_heads=2,
        num_hidden_layers=2,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
