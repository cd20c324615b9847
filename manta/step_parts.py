"""The parts of a graph's step that have fields of their own."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

StepName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
DEFAULT = "default"
"""The name that a route gives as its output when its default was chosen."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Retry(Part):
    """Tries of a step, with exponential backoff and full jitter between `min_s` and `max_s` seconds."""

    attempts: int = Field(3, ge=1, le=100)
    min_s: float = Field(4, ge=0)
    max_s: float = Field(10, ge=0)
    on: tuple[str, ...] | None = None
    """Codes of the errors worth another try; None is every error that says of itself that it can pass."""


class Repeat(Part):
    """A bounded loop: the step runs again until `until` holds, at most `max` times in all.

    `until` sees `output` (of this time round), `iteration` (from 1) and what the step's input sees; the input
    sees `previous`, the output of the time before (null at first), and `iteration`.
    """

    until: str
    max: int = Field(ge=1, le=1000)
    on_limit: Literal["accept", "fail"] = "accept"
    """Whether the last output stands when `until` never held, or the step fails with `loop_limit`."""


class Fallback(Part):
    """Another step that runs only if this one failed for good; its output becomes this one's."""

    fallback: StepName


class Prompt(Part):
    """One question to a model. Strings may hold references; the step's output is the answer's text."""

    text: str
    system: str = ""
    messages: str | None = None
    """A reference to a list of `{role, content}` that goes between system and text."""
    model: str = ""
    temperature: float | str = 0.0
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | str | None = None
    stop: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None
    """The answer has to be JSON of this schema, and the step's output is its value."""


class Approval(Part):
    """A question to a person. The run waits for days if need be and holds nothing but its journal row.

    The step's output is `{decision, value, comment, by}`: `value` is what was shown, or what it was edited to.
    A rejection fails the step with the code `rejected`.
    """

    question: str
    show: Any = None
    editable: bool = True
    timeout_s: float | None = Field(None, gt=0)
    """After so long without an answer the step fails with `approval_timeout`; None waits for ever."""


class Route(Part):
    """Chooses which steps run. Those of the branches not chosen are skipped; the output is the branch's name."""

    choose: str
    """A reference; its value names the branch, as text, whatever its case and the space around it."""
    branches: dict[str, tuple[StepName, ...]] = Field(min_length=1)
    default: tuple[StepName, ...] | None = None
    """Steps for any other value, as the branch `default`; None makes that an error, `no_branch`."""

    @model_validator(mode="after")
    def _sound(self) -> "Route":
        twice = [name for name, times in Counter(map(str.lower, self.branches)).items() if times > 1]
        if twice:
            raise ValueError(f"branch {twice[0]!r} is there twice; case does not tell branches apart")
        if self.default is not None and any(name.lower() == DEFAULT for name in self.branches):
            raise ValueError(f"with a default no branch can be called {DEFAULT!r}")
        return self

    def targets(self) -> frozenset[str]:
        named = (step for steps in self.branches.values() for step in steps)
        return frozenset((*named, *(self.default or ())))
