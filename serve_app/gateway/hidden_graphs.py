"""Graphs that the gateway runs for routes of OpenAI's: they are listed nowhere, and their runs are runs as any."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from manta.errors import InvalidGraph
from manta.graph import Graph, load_graph

RESPONSE_GRAPH = "manta-response"
BATCH_GRAPH = "manta-batch"
HIDDEN = frozenset({RESPONSE_GRAPH, BATCH_GRAPH})
_FOLDER = Path(__file__).parent / "graphs"


@cache
def hidden_graphs() -> dict[str, Graph]:
    """By name."""
    return {name: load_graph(_FOLDER / f"{name}.yaml") for name in sorted(HIDDEN)}


def with_hidden(library: Mapping[str, Graph]) -> dict[str, Graph]:
    """The graphs of a platform, and these. Raises InvalidGraph where one has the name of one of them."""
    taken = sorted(HIDDEN & library.keys())
    if taken:
        raise InvalidGraph(f"the name {taken[0]!r} is the platform's own", fix="give the graph another")
    return {**library, **hidden_graphs()}
