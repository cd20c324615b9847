from collections.abc import Iterator

import pytest

from tests.client.platform_double import PlatformDouble


@pytest.fixture
def platform() -> Iterator[PlatformDouble]:
    with PlatformDouble() as double:
        yield double
