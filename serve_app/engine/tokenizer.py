"""Text to token ids and back, from `tokenizer.json` or built from GGUF metadata."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from manta.errors import ModelLoadError

_CONTROL, _USER_DEFINED = 3, 4
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_SPLIT = _LETTERS + r"|\p{N}{1,3}" + _REST
_QWEN2_SPLIT = _LETTERS + r"|\p{N}" + _REST
# How text is cut before merging, by the name GGUF gives the vocabulary.
_SPLITS = {
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "llama-bpe": _LLAMA3_SPLIT,
    "qwen2": _QWEN2_SPLIT,
    "deepseek-r1-qwen": _QWEN2_SPLIT,
}
_GPT2_LIKE = ("smollm", "gpt-2", "gpt2", "default")


class Tokenizer:
    """A thin face over `tokenizers`. `vocab_size` counts added tokens too."""

    def __init__(self, backend: Backend) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._pieces: dict[int, str] = {}
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Tokens that steer the model, as text: what marks the turns of a conversation, say."""
        added = self._backend.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)

    @cached_property
    def marks(self) -> Mapping[str, int]:
        """Tokens that are no text to a form, by what they look like: special ones, and added ones in angle brackets.

        This is how llguidance reads a vocabulary.
        """
        added = self._backend.get_added_tokens_decoder().items()
        return {
            token.content: id
            for id, token in added
            if token.special or (token.content.startswith("<") and token.content.endswith(">"))
        }

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids. Special tokens written out in the text are recognised."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text; bytes that are no whole character become U+FFFD."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def id_of(self, token: str) -> int | None:
        found: int | None = self._backend.token_to_id(token)
        return found

    def piece(self, id: int) -> str:
        """The text of one token in mid-text, special ones included; bytes of a part of a character are U+FFFD."""
        known = self._pieces.get(id)
        if known is None:
            # Some decoders strip the first space, so the token must not come first.
            lead, text = self._lead
            known = self.decode([lead, id], skip_special_tokens=False)[len(text) :]
            self._pieces[id] = known
        return known

    @cached_property
    def _lead(self) -> tuple[int, str]:
        """A token that is a letter, and its text alone."""
        found = (self.id_of(letter) for letter in "abcdefghijklmnopqrstuvwxyz")
        id = next((id for id in found if id is not None), 0)
        return id, self.decode([id], skip_special_tokens=False)

    def to_json(self) -> str:
        """The whole tokenizer as a `tokenizer.json`."""
        text: str = self._backend.to_str()
        return text


def tokenizer_from_file(path: Path) -> Tokenizer:
    """Read `tokenizer.json`. Raises ModelLoadError when it is missing or broken."""
    if not path.exists():
        raise ModelLoadError(f"no tokenizer at {path}", fix="the model folder needs its tokenizer.json")
    try:
        return Tokenizer(Backend.from_file(str(path)))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelLoadError(f"{path} is not a tokenizer: {error}", fix="get the file again") from error


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer a GGUF file describes. Raises ModelLoadError for a kind that is not known."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ModelLoadError(
            f"GGUF tokenizer {kind!r} is not supported", fix="use a model folder with tokenizer.json"
        )
    try:
        backend = _byte_level(metadata) if kind == "gpt2" else _sentence_pieces(metadata)
        _add_special_tokens(backend, metadata)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"the GGUF tokenizer is incomplete: {error!r}", fix="get the file again"
        ) from error
    return Tokenizer(backend)


def _byte_level(metadata: Mapping[str, Any]) -> Backend:
    vocabulary = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [_pair(line) for line in metadata["tokenizer.ggml.merges"]]
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    backend = Backend(
        BPE(vocab=vocabulary, merges=merges, ignore_merges=name in ("llama3", "llama-v3", "llama-bpe"))
    )
    backend.pre_tokenizer = _pre_tokenizer(name)
    if _SPLITS.get(name) == _QWEN2_SPLIT:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split(" ", 1)
    return left, right


def _pre_tokenizer(name: str) -> Any:
    if name in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated")
        return pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    if name not in _GPT2_LIKE:
        known = ", ".join(sorted({*_SPLITS, *_GPT2_LIKE}))
        raise ModelLoadError(f"GGUF pre-tokenizer {name!r} is not known", fix=f"use one of: {known}")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name != "smollm":
        return whole
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])


def _sentence_pieces(metadata: Mapping[str, Any]) -> Backend:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = _merges_from_scores(vocabulary, metadata["tokenizer.ggml.scores"])
    unknown = tokens[int(metadata.get("tokenizer.ggml.unknown_token_id", 0))]
    backend = Backend(
        BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="first" if prefix else "never", split=False
    )
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return backend


def _merges_from_scores(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Sentencepiece lists no merges: every way to join two tokens into a third is one, best score first."""
    ranked: list[tuple[float, int, int, str, str]] = []
    for token, index in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[index], vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _add_special_tokens(backend: Backend, metadata: Mapping[str, Any]) -> None:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: Sequence[int] = metadata.get("tokenizer.ggml.token_type", ())
    marked = list(zip(tokens, kinds, strict=False))
    control = [AddedToken(t, normalized=False, special=True) for t, kind in marked if kind == _CONTROL]
    backend.add_special_tokens(control)
    backend.add_tokens([AddedToken(t, normalized=False) for t, kind in marked if kind == _USER_DEFINED])
    # Old sentencepiece files carry no flag, and their models expect the first token.
    default = metadata["tokenizer.ggml.model"] == "llama"
    if metadata.get("tokenizer.ggml.add_bos_token", default):
        first = int(metadata["tokenizer.ggml.bos_token_id"])
        backend.post_processor = processors.TemplateProcessing(
            single=f"{tokens[first]}:0 $A:0", special_tokens=[(tokens[first], first)]
        )
