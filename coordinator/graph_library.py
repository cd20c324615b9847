"""The graphs that the settings give: the ready ones and the user's own, sub-graphs written out."""

from pathlib import Path

from manta.config import Settings
from manta.errors import InvalidConfig
from manta.graph import Graph, embed, load_graph

READY_GRAPHS = Path(__file__).parent / "graphs"


def load_library(settings: Settings) -> dict[str, Graph]:
    """The graphs by name; one of the user's own takes the place of a ready one.

    Raises:
        InvalidGraph: one of them cannot run.
        InvalidConfig: a file is not there.
    """
    ready = [load_graph(path) for path in sorted(READY_GRAPHS.glob("*.yaml"))]
    own = [load_graph(_own_path(settings, name, path)) for name, path in settings.graphs.items()]
    library = {graph.name: graph for graph in (*ready, *own)}
    return {name: embed(graph, library) for name, graph in library.items()}


def _own_path(settings: Settings, name: str, path: str) -> Path:
    full = settings.project / path
    if not full.is_file():
        raise InvalidConfig(
            f"graphs.{name}: there is no file {full}", fix="paths start from manta.yaml's folder"
        )
    return full
