"""One Ray and one Serve for all tests of this folder: models and a gateway without the rest of the platform."""

from collections.abc import Iterator

import pytest

from tests.serving import test_affinity, test_overload, test_scaling
from tests.serving.process import Serving, serving


@pytest.fixture(scope="package")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    models = test_affinity.MODELS | test_overload.MODELS | test_scaling.MODELS
    with serving(tmp_path_factory.mktemp("serving"), models) as made:
        yield made
