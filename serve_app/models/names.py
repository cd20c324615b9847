"""The names of Serve applications: one for each version of a model, one for the embedder.

What is named like a version is taken for one, and deleted when nobody wants it: hence a name that others have not.
"""

import re

EMBEDDER_APP = "embedder"
_MODEL = re.compile(r"manta-model-(?P<name>.+)-v(?P<version>[0-9]+)")


def model_app(name: str, version: int) -> str:
    return f"manta-model-{name}-v{version}"


def version_behind(app: str) -> tuple[str, int] | None:
    """The model and version of an application; None: it is none of a model's."""
    found = _MODEL.fullmatch(app)
    return None if found is None else (found["name"], int(found["version"]))
