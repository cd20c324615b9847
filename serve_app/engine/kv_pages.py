"""Which pages of the KV memory are taken. Pure.

Running requests fill from the bottom and what is only kept lies at the top, so that one view over a range
of pages covers the running ones with few strangers in between.
"""

import heapq


class KvPages:
    """Hands out numbered pages of `size` token places. A page has one owner at a time."""

    def __init__(self, places: int, size: int) -> None:
        self.size = min(size, places)
        self.total = places // self.size
        self._low = list(range(self.total))
        self._high = [-page for page in reversed(range(self.total))]
        self._free = set(range(self.total))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.total - len(self._free)

    def needed(self, tokens: int) -> int:
        """How many pages so many tokens fill."""
        return -(-tokens // self.size)

    def take_lowest(self) -> int:
        """A page for a running request. Raises IndexError when none is free: look at `free` before."""
        while (page := heapq.heappop(self._low)) not in self._free:
            pass
        self._free.remove(page)
        return page

    def take_above(self, floor: int) -> int | None:
        """The highest free page if it lies above `floor`."""
        while self._high and -self._high[0] not in self._free:
            heapq.heappop(self._high)
        if not self._high or -self._high[0] <= floor:
            return None
        page = -heapq.heappop(self._high)
        self._free.remove(page)
        return page

    def give_back(self, page: int) -> None:
        if page in self._free:
            raise ValueError(f"page {page} is free already")
        self._free.add(page)
        heapq.heappush(self._low, page)
        heapq.heappush(self._high, -page)
