"""Texts cut and packed so that each prompt, with room for its answer, fits a model's window.

Every prompt is counted as it will be sent, by the model's own tokens; estimates only choose where to try.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from manta.errors import InvalidInput
from manta.messages import ChatMessage
from manta.protocols import ChatModel

BETWEEN = "\n\n"
SPARE = 8
"""Tokens left free beside the prompt and its answer."""
LEAST_ROOM = 48
"""Tokens of text that a prompt must have room for."""
_SAMPLE = 4000
_CUTS = (re.compile(r"\n\s*\n"), re.compile(r"(?<=[.!?])\s"), re.compile(r"\s"))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A text and the prompt around it."""

    text: str
    prompt: str


class Frame:
    """A prompt with a place for texts. Make one by `frame`."""

    def __init__(self, model: ChatModel, before: str, after: str, bare: int, room: int) -> None:
        self._model = model
        self._before = before
        self._after = after
        self._bare = bare
        self._room = room

    @property
    def room(self) -> int:
        """Tokens of text that fit."""
        return self._room

    def fitted(self, texts: Sequence[str]) -> Fitted:
        text = BETWEEN.join(texts)
        return Fitted(text, f"{self._before}{text}{self._after}")

    async def tokens(self, *texts: str) -> int:
        """What these texts add to the bare prompt."""
        prompt = self.fitted(texts).prompt
        return await self._model.count_tokens((ChatMessage("user", prompt),)) - self._bare

    async def pieces(self, text: str) -> list[str]:
        """The text in pieces that fit, one after the other, cut between paragraphs, sentences or words."""
        found: list[str] = []
        rest = text.strip()
        if not rest:
            return []
        sample = rest[:_SAMPLE]
        # Characters that a token stands for, here.
        density = len(sample) / max(1, await self.tokens(sample))
        while rest:
            piece = await self._head(rest, self._room, max(1, int(self._room * density)))
            found.append(piece.strip())
            rest = rest[len(piece) :].strip()
        return found

    async def shortened(self, text: str, tokens: int) -> str:
        """The beginning of a text, of at most so many tokens."""
        return (await self._head(text, tokens, len(text))).strip()

    async def _head(self, text: str, tokens: int, characters: int) -> str:
        while True:
            head = _cut(text, characters)
            size = await self.tokens(head)
            if size <= tokens:
                return head
            if len(head) <= 1:
                raise InvalidInput("not one character fits the model's window", fix="use a larger model")
            # A bit less than the ratio says, so that a few tries are enough.
            characters = min(len(head) - 1, max(1, int(len(head) * 0.95 * tokens / size)))

    async def groups(self, texts: Sequence[str]) -> list[list[str]]:
        """Neighbouring texts together, as many as fit; a text over half of the room is shortened to that.

        So two fit each group, and there are at most half as many groups as texts, but for the last.
        """
        found: list[list[str]] = []
        sizes: list[int] = []
        separator = max(0, await self.tokens("x", "x") - 2 * await self.tokens("x")) + 1
        for text in texts:
            size = await self.tokens(text)
            if size + separator > self._room // 2:
                text = await self.shortened(text, self._room // 2 - separator)
                size = await self.tokens(text)
            if found and sizes[-1] + separator + size <= self._room:
                joined = await self.tokens(*found[-1], text)
                if joined <= self._room:
                    found[-1].append(text)
                    sizes[-1] = joined
                    continue
            found.append([text])
            sizes.append(size)
        return found


async def frame(
    model: ChatModel, before: str, after: str, answer_tokens: int, most_tokens: int | None = None
) -> Frame:
    """A frame for prompts of `before`, texts and `after`.

    Args:
        answer_tokens: what the answer may take.
        most_tokens: of text at most, where the window would take more.

    Raises:
        InvalidInput: the window has no room for texts beside the prompt and its answer.
    """
    window = (await model.info()).context_window
    bare = await model.count_tokens((ChatMessage("user", before + after),))
    room = window - bare - answer_tokens - SPARE
    if room < LEAST_ROOM:
        raise InvalidInput(
            f"the prompt has {bare} tokens and its answer {answer_tokens}, the window {window}",
            fix="shorten the question, or use a model with a larger window",
            code="no_room",
        )
    return Frame(model, before, after, bare, room if most_tokens is None else min(room, max(most_tokens, 1)))


def _cut(text: str, characters: int) -> str:
    """The beginning of a text, up to the best place in the second half of so many characters."""
    if len(text) <= characters:
        return text
    for kind in _CUTS:
        places = [match.end() for match in kind.finditer(text, characters // 2, characters)]
        if places:
            return text[: places[-1]]
    return text[:characters]
