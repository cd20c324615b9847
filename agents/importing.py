"""Import paths of graphs: `module:name` becomes the thing itself."""

import asyncio
import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from manta.errors import InvalidConfig, MantaError, StepError
from manta.telemetry import get_logger

logger: logging.Logger = get_logger("agents")


async def imported(path: str, what: str) -> Any:
    """What `path` names. A module that is new here is imported in a thread: it may take seconds.

    Args:
        what: the step's kind, for the error.

    Raises:
        InvalidConfig: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        if module not in sys.modules:
            await asyncio.to_thread(importlib.import_module, module)
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # Foreign code runs here: it may fail in any way.
        cause = f"cannot import {path}: {type(error).__name__}: {error}"
        raise InvalidConfig(cause, fix=f"check the graph's `{what}`") from error


@contextmanager
def named_failures(path: str) -> Iterator[None]:
    """Errors of foreign code become the step's, named after it; the traceback goes to the log.

    Raises:
        StepError: for any exception that is not a MantaError.
    """
    try:
        yield
    except MantaError:
        raise
    except Exception as error:
        logger.exception("%s failed", path)
        cause = " ".join(f"{path} failed: {type(error).__name__}: {error}".split())[:500]
        raise StepError(cause, fix="see `manta logs`") from error
