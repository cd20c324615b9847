"""Runs with side effects, and killing in the middle of them."""

from collections import Counter
from pathlib import Path

import psutil

from manta.client import Client
from tests.live.conftest import LivePlatform, eventually

TIMES = 4


def begin(client: Client, gate: Path) -> str:
    return client.submit("notes", {"times": TIMES, "gate": str(gate)}).id


def check(platform: LivePlatform, client: Client, run: str, in_flight: int = 0) -> None:
    """The run ended well; the ledger outside the store shows at most `in_flight` calls made again."""
    ended = client.wait(run, timeout=120)
    assert ended.run.status == "success", ended.run.error
    assert ended.output["effects"] == list(range(TIMES))
    tools = Counter(line["number"] for line in platform.notes("tool", run))
    assert set(tools) == set(range(TIMES))
    assert sum(tools.values()) - TIMES <= in_flight
    model_calls = len(platform.notes("model_call", run))
    assert 2 <= model_calls <= 2 + in_flight
    events = [event.seq for event in client.stream(run) if event.seq]
    assert events == list(range(1, len(events) + 1))


def wait_for_effects(platform: LivePlatform, client: Client, run: str) -> None:
    def committed() -> bool:
        assert not (state := client.get(run)).done, state.error
        # The ledger has a line before the outcome is in the journal: nothing is to be in flight at the kill.
        return any(call.kind == "tool" and call.state == "done" for call in client.calls(run))

    eventually(committed, "the first side effect")
    assert platform.notes("tool", run)


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait(30)
