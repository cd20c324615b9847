"""When a server that died is started again."""

from dataclasses import dataclass

STABLE_S = 60.0
"""A server that lived so long had started well: its death is the first of a new row."""
LONGEST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Restarts:
    """`deaths` in a row, of which `allowed` are followed by another start."""

    allowed: int
    first_delay_s: float = 1.0
    deaths: int = 0

    def after_death(self, lived_s: float) -> "Restarts":
        """`lived_s`: for how long the server had been ready; 0 when it never was."""
        deaths = 1 if lived_s >= STABLE_S else self.deaths + 1
        return Restarts(self.allowed, self.first_delay_s, deaths)

    @property
    def delay_s(self) -> float | None:
        """Seconds until the next start; None when there is none."""
        if self.deaths > self.allowed:
            return None
        return min(LONGEST_DELAY_S, self.first_delay_s * 2.0 ** max(0, self.deaths - 1))
