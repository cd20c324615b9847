"""Turns a growing list of tokens into text that may be sent: whole characters, no stop strings."""

from collections.abc import Callable, Sequence

# Tokens before the undecided ones that decoders need to get spaces right.
_CONTEXT = 4


class Detokenizer:
    """Incremental decoding. A character whose bytes are still coming is held back."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._sent = 0

    def push(self, token: int) -> str:
        """Text that became certain with this token."""
        self._window.append(token)
        text = self._decode(self._window)
        whole = text.rstrip("\ufffd")
        fresh = whole[self._sent :]
        self._sent = max(self._sent, len(whole))
        if len(whole) == len(text) and len(self._window) > 2 * _CONTEXT:
            self._window = self._window[-_CONTEXT:]
            self._sent = len(self._decode(self._window))
        return fresh

    def flush(self) -> str:
        """What was held back, now that nothing follows; broken characters show as U+FFFD."""
        text = self._decode(self._window)
        fresh = text[self._sent :]
        self._sent = len(text)
        return fresh


class StopFilter:
    """Cuts text at the first stop string and holds back what could still become one.

    From `until` on, if that is not empty and comes first, stop strings do not count.
    """

    def __init__(self, stops: Sequence[str], until: str = "") -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._until = until
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that can be sent. Sets `stopped` when a stop string is complete."""
        if not self._stops:
            return text
        self._held += text
        first = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=None)
        end = self._held.find(self._until) if self._until else -1
        if end >= 0 and (first is None or end < first):
            self._stops = ()
            return self.flush()
        if first is not None:
            self.stopped = True
            sent, self._held = self._held[:first], ""
            return sent
        keep = max(open_end(self._held, mark) for mark in (*self._stops, self._until))
        cut = len(self._held) - keep
        sent, self._held = self._held[:cut], self._held[cut:]
        return sent

    def flush(self) -> str:
        """What was held back, now that nothing follows."""
        rest, self._held = self._held, ""
        return rest


def open_end(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


class TextStream:
    """A request's text: tokens in, text that may be sent out."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], stop_until: str = ""
    ) -> None:
        self._tokens = Detokenizer(decode)
        self._filter = StopFilter(stops, stop_until)

    @property
    def stopped(self) -> bool:
        return self._filter.stopped

    def push(self, token: int) -> str:
        return self._filter.push(self._tokens.push(token))

    def finish(self) -> str:
        """The last text of a request that ended otherwise than by a stop string."""
        last = self._filter.push(self._tokens.flush())
        return last if self.stopped else last + self._filter.flush()
