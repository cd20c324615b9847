"""The real small model for strangers' test suites: in this process, and behind the real gateway on a real socket."""

from collections.abc import Iterator

import pytest

from manta.config import ModelSettings
from serve_app.backends.torch_backend import TorchBackend
from tests.gateway.serving import Apart, served_apart

MODEL = "smollm2"
MAX_TOKENS = 200
LOOPS = 0.5
"""A frequency penalty: greedy, so small a model repeats itself until it is cut off."""


@pytest.fixture(scope="session")
def backend() -> Iterator[TorchBackend]:
    # The suites ask how answers are told, not how good they are, and int8 is several times faster on a CPU.
    made = TorchBackend(MODEL, ModelSettings(abilities=("tools", "json"), quantize="int8"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, backend: TorchBackend) -> Iterator[Apart]:
    with served_apart(tmp_path_factory.mktemp("strangers"), {MODEL: backend}) as apart:
        yield apart


@pytest.fixture(scope="session")
def base_url(platform: Apart) -> str:
    return f"{platform.url}/v1"
