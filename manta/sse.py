"""Server-sent events, both halves of reading them: bytes to frames, and frames to a run's events.

`Follower` and `Patience` hold what a reader must remember between connections,
so that the sync and the async client share every decision and differ only in I/O.
"""

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from manta.errors import MantaError, PlatformError, Unavailable, error_from_json
from manta.events import TERMINAL_EVENTS, Event
from manta.ids import RunId, StepKey
from manta.messages import from_json

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One dispatched server-sent event."""

    event: str
    data: str
    id: str | None = None


class FrameParser:
    """Turns chunks of bytes, cut anywhere, into frames (the WHATWG rules: CR, LF or CRLF, comments, BOM)."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._rest = ""
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        text = self._rest + self._decoder.decode(chunk)
        # A CR at the very end may be the first half of a CRLF whose LF has not come yet.
        held = "\r" if text.endswith("\r") else ""
        lines = text[: len(text) - len(held)].replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + held
        for line in lines:
            frame = self._line(line)
            if frame is not None:
                yield frame

    def _line(self, line: str) -> Frame | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Frame | None:
        frame = Frame(self._event or "message", "\n".join(self._data), self._id) if self._data else None
        self._event, self._data, self._id = "", [], None
        return frame


class Patience:
    """How long a reader tries again after a connection broke: growing pauses, then an end.

    Args:
        run: the run that is watched, for the message.
        limit_s: seconds without a byte before giving up.
    """

    def __init__(self, run: str, limit_s: float, monotonic: Callable[[], float]) -> None:
        self._run = run
        self._limit_s = limit_s
        self._monotonic = monotonic
        self.reset()

    def reset(self) -> None:
        self._delay = FIRST_DELAY_S
        self._since: float | None = None

    def heard(self) -> None:
        """The other side is there. Pauses go on growing: a connection that brings no event is soon cut again."""
        self._since = None

    def lost(self, cause: str) -> float:
        """Seconds to wait before the next try. Raises PlatformError when patience is over."""
        now = self._monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > self._limit_s:
            raise PlatformError(
                f"lost run {self._run}: {cause}",
                fix=f"the run itself may go on: manta show {self._run}",
                code="stream_lost",
            )
        delay, self._delay = self._delay, min(self._delay * 2, LONGEST_DELAY_S)
        return delay


class Follower:
    """Follows one run over as many connections as it takes.

    Args:
        run: the run.
        after: events up to this sequence number are not wanted.
        patience: renewed by every byte, be it of a keep-alive comment.
        now: epoch seconds, for the time of token deltas.
        monotonic: seconds, for how long no event came.
    """

    def __init__(
        self,
        run: str,
        after: int,
        patience: Patience,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.last = after
        self.finished = False
        self.patience = patience
        self._run = RunId(run)
        self._now = now
        self._monotonic = monotonic
        self._last_event = monotonic()
        self._parser = FrameParser()
        # What an `error` frame said; the event that says the same of the run may come behind it.
        self._said: MantaError | None = None

    def headers(self) -> dict[str, str]:
        """For the next connection; also forgets the half frame of the one before."""
        self._parser, self._said = FrameParser(), None
        resume = {"Last-Event-ID": str(self.last)} if self.last else {}
        return {"Accept": "text/event-stream", **resume}

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events in the next bytes."""
        self.patience.heard()
        for frame in self._parser.feed(chunk):
            event = self._read(frame)
            if event is not None:
                yield event
                # After the yield: what the reader does with an event is no silence of the run's.
                self._last_event = self._monotonic()
            if self.finished:
                return

    def silent(self, limit_s: float | None) -> bool:
        """Whether no event came for `limit_s`; None is no limit. Keep-alive comments are not events."""
        return limit_s is not None and self._monotonic() - self._last_event >= limit_s

    def broke_off(self) -> float:
        """The stream ended before the run did: seconds until the next connection. Raises what it said last."""
        self._raise_said()
        return self.patience.lost(str(self._said or "the stream ended before the run did"))

    def _raise_said(self) -> None:
        # A coordinator that is being replaced says so in the stream: the next connection finds the new one.
        if self._said is not None and not isinstance(self._said, Unavailable):
            raise self._said

    def _read(self, frame: Frame) -> Event | None:
        if frame.event == "end":
            self._raise_said()
            self.finished = True
            return None
        if frame.event not in ("custom", "messages", "error"):
            return None
        data = _json(frame.data)
        if frame.event == "error":
            self._said = error_from_json(data if isinstance(data, dict) else {"message": str(data)})
            return None
        event = self._token(data) if frame.event == "messages" else _event(data)
        if event is None or 0 < event.seq <= self.last:
            return None
        self.patience.reset()
        self._said = None
        self.last = max(self.last, event.seq)
        self.finished = event.type in TERMINAL_EVENTS
        return event

    def _token(self, data: Any) -> Event | None:
        if not isinstance(data, list) or not data or not isinstance(data[0], dict):
            raise unexpected(f"a messages event without a message: {str(data)[:80]}")
        text = data[0].get("content")
        about = data[1] if len(data) > 1 and isinstance(data[1], dict) else {}
        if not isinstance(text, str) or not text:
            return None
        step = about.get("step")
        return Event(self._run, 0, "token", self._now(), StepKey(str(step)) if step else None, {"text": text})


def unexpected(what: str) -> MantaError:
    return PlatformError(
        f"an answer that is not Manta's: {what}",
        fix="check the address and that both versions match",
        code="unexpected_answer",
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise unexpected(f"event data {text[:80]!r}") from None


def _event(data: Any) -> Event:
    try:
        return from_json(Event, data)
    except (TypeError, AttributeError):
        raise unexpected(f"event {str(data)[:80]}") from None
