"""Owns a server as a replica does, for tests that kill it: `python -m tests.backends.server_owner SETTINGS`."""

import sys
import threading

from manta.config import ModelSettings
from serve_app.backends.server import ServerBackend


def main() -> None:
    backend = ServerBackend("m", ModelSettings.model_validate_json(sys.argv[1]))
    # From a thread that ends, as Serve may do it.
    thread = threading.Thread(target=backend.start)
    thread.start()
    thread.join()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
