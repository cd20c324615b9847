"""Tasks and results on their way between processes.

Ray's pickler asks Python code about every value; the interpreter's own does not, and there are many small values.
"""

import pickle
from collections.abc import Sequence

from agents.workload import Results, TaskId
from manta.messages import Task


def pack_tasks(tasks: Sequence[Task]) -> bytes:
    return pickle.dumps(list(tasks), pickle.HIGHEST_PROTOCOL)


def unpack_tasks(packed: bytes) -> list[Task]:
    tasks: list[Task] = pickle.loads(packed)
    return tasks


def pack_results(results: Results) -> bytes:
    return pickle.dumps(results, pickle.HIGHEST_PROTOCOL)


def unpack_results(packed: bytes) -> Results:
    results: Results = pickle.loads(packed)
    return results


def pack_ids(ids: Sequence[TaskId]) -> bytes:
    return pickle.dumps(list(ids), pickle.HIGHEST_PROTOCOL)


def unpack_ids(packed: bytes) -> list[TaskId]:
    ids: list[TaskId] = pickle.loads(packed)
    return ids
