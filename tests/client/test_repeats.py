"""What is sent again because its answer was lost says that it is the same request."""

from collections.abc import Callable
from typing import Any

import pytest

from manta import Client
from manta.errors import MantaError
from tests.client.platform_double import PlatformDouble

RUN = "00000000-0000-4000-8000-000000000001"
CALLS: list[Callable[[Client], Any]] = [
    lambda client: client.approve(RUN),
    lambda client: client.resume(RUN),
    lambda client: client.rate(RUN, 5),
    lambda client: client.fork(RUN, "step"),
    lambda client: client.threads.create(),
    lambda client: client.threads.copy(RUN),
    lambda client: client.threads.patch(RUN, metadata={"a": 1}),
    lambda client: client.schedules.create("echo", {}, cron="0 7 * * *"),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_request_keeps_its_key_and_another_has_its_own(
    platform: PlatformDouble, call: Callable[[Client], Any]
):
    keys = []
    with Client(platform.url) as client:
        for _ in range(2):
            platform.drop_requests, before = 2, len(platform.requests)
            # The double has no such route: what counts is how it was asked.
            with pytest.raises(MantaError):
                call(client)
            sent = {headers["idempotency-key"] for _, _, headers in platform.requests[before:]}
            assert len(platform.requests) == before + 3
            assert len(sent) == 1
            keys += sent
    assert keys[0] != keys[1]
