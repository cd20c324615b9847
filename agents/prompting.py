"""Prompts are files: found by name, filled by strict sandboxed templates, told apart by their hash.

The format is described in `agents/prompts/README.md`.
"""

import dataclasses
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import jinja2
import jinja2.meta
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manta.errors import InvalidInput, NotFound
from manta.messages import ChatMessage, Passage
from manta.protocols import ChatModel

PROMPTS = Path(__file__).parent / "prompts"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_FRONT = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
_SECTION = re.compile(r"^# (system|user|assistant)[ \t]*$", re.MULTILINE)
# Fewer characters than this of a passage say nothing.
_LEAST_CUT = 80


class _FrontMatter(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    version: int = Field(ge=1)
    description: str
    variables: list[str]


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt file, read and checked. `version` is the text's hash, `revision` its number for people."""

    name: str
    revision: int
    version: str
    description: str
    variables: tuple[str, ...]
    sections: tuple[tuple[Role, str], ...]

    def messages(self, **values: Any) -> tuple[ChatMessage, ...]:
        """The sections, filled, as messages.

        Raises:
            InvalidInput: a variable is missing or unknown, or a template fails on its value.
        """
        missing = sorted(set(self.variables) - set(values))
        unknown = sorted(set(values) - set(self.variables))
        if missing or unknown:
            what = f"needs the variable {missing[0]!r}" if missing else f"has no variable {unknown[0]!r}"
            raise InvalidInput(
                f"prompt {self.name} {what}", fix=f"its variables: {', '.join(self.variables) or 'none'}"
            )
        return tuple(ChatMessage(role, self._fill(text, values)) for role, text in self.sections)

    def _fill(self, text: str, values: dict[str, Any]) -> str:
        try:
            return _template(text).render(values).strip()
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"prompt {self.name} cannot be filled: {error}", fix="check the values given"
            ) from None


def load_prompt(name: str, folder: Path | None = None) -> Prompt:
    """The prompt `NAME.md` of a folder; None is the built-in prompts.

    Raises:
        NotFound: there is no such file.
        InvalidInput: the file does not follow the format.
    """
    file = (folder or PROMPTS) / f"{name}.md"
    if not _NAME.fullmatch(name) or not file.is_file():
        raise NotFound(f"there is no prompt {name!r} in {folder or PROMPTS}", fix="check the name")
    try:
        return parse_prompt(file.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError:
        raise InvalidInput(f"prompt {name} is not UTF-8 text", fix=f"save {file} as UTF-8") from None


def parse_prompt(text: str, name: str) -> Prompt:
    """A prompt from its file's text. Raises InvalidInput if it does not follow the format."""
    front, body = _split(text, name)
    if front.name != name:
        raise _broken(name, f"its front matter names {front.name!r}")
    sections = _sections(body, name)
    used: set[str] = set()
    for _, section in sections:
        try:
            used |= jinja2.meta.find_undeclared_variables(_environment().parse(section))
        except jinja2.TemplateSyntaxError as error:
            raise _broken(name, f"template error: {error.message}") from None
    if used != set(front.variables):
        odd = sorted(used ^ set(front.variables))[0]
        raise _broken(name, f"{odd!r} is used but not declared, or declared but not used")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Prompt(name, front.version, digest, front.description, tuple(front.variables), sections)


async def fit_passages(
    passages: Sequence[Passage], budget_tokens: int, count: Callable[[str], Awaitable[int]]
) -> tuple[Passage, ...]:
    """The passages, best first, that fit a budget together; one that is too long is passed over for the next.

    When not even one fits, the first is cut to a prefix, which is still verbatim.

    Args:
        budget_tokens: room for the passages' texts.
        count: tokens of a text; see `token_counter`.
    """
    kept: list[Passage] = []
    left = budget_tokens
    for passage in passages:
        cost = await count(passage.text)
        if cost <= left:
            kept.append(passage)
            left -= cost
    if not kept and passages:
        cut = await _cut(passages[0], budget_tokens, count)
        kept = [cut] if cut is not None else []
    return tuple(kept)


def token_counter(model: ChatModel) -> Callable[[str], Awaitable[int]]:
    """Counts the tokens of a text as a user's message, so the chat template's overhead is included."""

    async def count(text: str) -> int:
        return await model.count_tokens((ChatMessage("user", text),))

    return count


async def _cut(passage: Passage, budget: int, count: Callable[[str], Awaitable[int]]) -> Passage | None:
    low, high = 0, len(passage.text)
    while high - low > _LEAST_CUT // 2:
        middle = (low + high) // 2
        low, high = (middle, high) if await count(passage.text[:middle]) <= budget else (low, middle)
    end = passage.text.rfind(" ", 0, low) if low < len(passage.text) else low
    text = passage.text[: end if end > 0 else low]
    if len(text) < min(_LEAST_CUT, len(passage.text)):
        return None
    return dataclasses.replace(passage, end=passage.start + len(text), text=text)


def _split(text: str, name: str) -> tuple[_FrontMatter, str]:
    match = _FRONT.match(text)
    if match is None:
        raise _broken(name, "it has no front matter between two lines of ---")
    try:
        return _FrontMatter.model_validate(yaml.safe_load(match.group(1))), text[match.end() :]
    except yaml.YAMLError as error:
        raise _broken(name, f"its front matter is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "front matter"
        raise _broken(name, f"{where}: {first['msg']}") from None


def _sections(body: str, name: str) -> tuple[tuple[Role, str], ...]:
    before, *parts = _SECTION.split(body)
    if before.strip() or not parts:
        raise _broken(name, "its text must begin with a line `# system` or `# user`")
    roles = parts[::2]
    if "system" in roles[1:] or roles[-1] != "user":
        raise _broken(name, "`# system` comes first and at most once, and the last section is `# user`")
    return tuple((cast(Role, role), text.strip()) for role, text in zip(roles, parts[1::2], strict=True))


def _broken(name: str, cause: str) -> InvalidInput:
    return InvalidInput(f"prompt {name}: {cause}", fix="see agents/prompts/README.md")


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )


@cache
def _template(text: str) -> jinja2.Template:
    return _environment().from_string(text)
