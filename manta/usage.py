"""What is used, what it costs, and what may be used at most."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from manta.ids import StepKey


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of one call or a sum of several. Tokens are the model's own.

    `cost_micros`: millionths of the money unit that prices are given in. `milliseconds`: time that step
    executions worked, those beside each other added up; a call has none of its own.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    cost_micros: int = 0
    milliseconds: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        # Written out: this is done for every step, and the generic way costs 50 times as much.
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.model_calls + other.model_calls,
            self.tool_calls + other.tool_calls,
            self.cost_micros + other.cost_micros,
            self.milliseconds + other.milliseconds,
        )


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in any one unit of money, for a million tokens. `cached_input` None is as `input`."""

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None

    def micros(self, usage: Usage) -> int:
        """The cost in millionths of the unit, rounded up."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = usage.input_tokens - usage.cached_tokens
        return math.ceil(
            fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be used at most; None is no limit. `tokens`: in and out together; `seconds`: of work, as in
    `Usage.milliseconds`; `money`: in the unit that prices are given in.
    """

    tokens: Annotated[int, Ge(0)] | None = None
    model_calls: Annotated[int, Ge(0)] | None = None
    tool_calls: Annotated[int, Ge(0)] | None = None
    seconds: Annotated[float, Ge(0)] | None = None
    money: Annotated[float, Ge(0)] | None = None

    def exceeded_by(self, used: Usage) -> str | None:
        """The first limit that `used` is over, in words."""
        amounts: tuple[tuple[str, float, float | None], ...] = (
            ("tokens", used.input_tokens + used.output_tokens, self.tokens),
            ("model calls", used.model_calls, self.model_calls),
            ("tool calls", used.tool_calls, self.tool_calls),
            ("seconds", used.milliseconds / 1000, self.seconds),
            ("money", used.cost_micros / 1e6, self.money),
        )
        for what, amount, limit in amounts:
            if limit is not None and amount > limit:
                return f"{amount:g} of {limit:g} {what}"
        return None


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget and the step execution it covers, with everything beneath; an empty step is the whole run."""

    step: StepKey
    budget: Budget
