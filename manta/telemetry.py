"""JSON logs that carry the run, step and trace they belong to."""

import json
import logging
import time
from contextvars import ContextVar
from typing import Any

log_scope: ContextVar[dict[str, str] | None] = ContextVar("log_scope", default=None)
"""Set by whoever works for a run: run, step, trace."""


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(log_scope.get() or {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(level: str = "INFO") -> None:
    """One JSON line per record on stderr. Called once per process, by its entry point."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("manta")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


def get_logger(room: str) -> logging.Logger:
    return logging.getLogger(f"manta.{room}")
