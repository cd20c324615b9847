"""Whether a gateway may listen where the settings say: others reach it only with keys."""

from coordinator.store.keys import any_key
from coordinator.store.read_only import reading
from manta.config import Settings
from manta.errors import InvalidConfig, NotFound


def check_keys(settings: Settings) -> None:
    """Reads the journal and changes nothing.

    Raises:
        InvalidConfig: code `keys_needed`, others than this machine reach the gateway and there is no key.
        StorageUnavailable: the journal cannot be read.
    """
    if settings.server.on_loopback:
        return
    try:
        with reading(settings.journal_url, any_version=True) as connection:
            found = any_key(connection)
    except NotFound:
        found = False
    if not found:
        raise InvalidConfig(
            f"the gateway listens on {settings.server.host}, where others reach it, and there is no API key",
            fix="make one: manta keys create NAME; or leave server.host at 127.0.0.1",
            code="keys_needed",
        )
