"""Which stretches of the KV memory are taken: a first-fit allocator of contiguous token places. Pure."""

from bisect import insort


class KvSpace:
    """Hands out stretches of `total` places. `used` never exceeds `total` and stretches never overlap."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._gaps: list[tuple[int, int]] = [(0, total)] if total else []

    def take(self, count: int) -> int | None:
        """The start of a free stretch of `count` places, now taken; None when no gap is that long."""
        for index, (start, length) in enumerate(self._gaps):
            if length >= count:
                rest = [(start + count, length - count)] if length > count else []
                self._gaps[index : index + 1] = rest
                self.used += count
                return start
        return None

    def give_back(self, start: int, count: int) -> None:
        """Free a stretch that `take` handed out, joining it with free neighbours."""
        self.used -= count
        insort(self._gaps, (start, count))
        joined: list[tuple[int, int]] = []
        for begin, length in self._gaps:
            if joined and sum(joined[-1]) == begin:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((begin, length))
        self._gaps = joined
