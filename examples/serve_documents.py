"""Writes a folder of Markdown documents made of the docstrings of the installed Ray Serve.

Nothing foreign is kept in this repository: the documents are made where they are used.
"""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = (
    "ray.serve.api",
    "ray.serve.autoscaling_policy",
    "ray.serve.batching",
    "ray.serve.config",
    "ray.serve.deployment",
    "ray.serve.exceptions",
    "ray.serve.handle",
    "ray.serve.multiplex",
    "ray.serve.schema",
)
MIN_CHARACTERS = 60
"""Shorter docstrings only repeat the name."""


def write_documents(folder: Path) -> list[Path]:
    """One document per module, with a section per documented public thing. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in MODULES:
        module = importlib.import_module(name)
        sections = list(_sections(module))
        if sections:
            path = folder / f"{name}.md"
            path.write_text(f"# {name}\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
            written.append(path)
    return written


def _sections(module: Any) -> Iterator[str]:
    for name, thing in sorted(vars(module).items()):
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        parts = [_text(thing), *_fields(thing), *_methods(thing)]
        body = "\n\n".join(part for part in parts if len(part) >= MIN_CHARACTERS)
        if body:
            yield f"## {name}\n\n{body}"


def _text(thing: Any) -> str:
    # Only a docstring of its own: a class would else show the one of its base.
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else getattr(thing, "__doc__", None)
    return inspect.cleandoc(own) if isinstance(own, str) else ""


def _fields(thing: Any) -> Iterator[str]:
    """What a settings class says of each of its fields."""
    for name, field in getattr(thing, "model_fields", {}).items():
        if field.description:
            yield f"`{name}`: {' '.join(field.description.split())}"


def _methods(thing: Any) -> Iterator[str]:
    if not inspect.isclass(thing):
        return
    for name, method in sorted(vars(thing).items()):
        if not name.startswith("_") and inspect.isfunction(method) and method.__doc__:
            yield f"### {thing.__name__}.{name}\n\n{inspect.cleandoc(method.__doc__)}"
