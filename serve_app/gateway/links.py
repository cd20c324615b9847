"""What an OpenAPI document says of where to go on with an id that an answer holds."""

from typing import Any

_OF_A_RUN = (
    "get_run",
    "wait_run",
    "stream_run",
    "cancel_run",
    "delete_run",
    "decide",
    "fork_run",
    "resume_run",
    "add_feedback",
    "list_feedback",
    "list_calls",
)
_OF_A_THREAD = (
    "get_thread",
    "patch_thread",
    "delete_thread",
    "copy_thread",
    "get_thread_history",
    "open_thread_sse_stream",
    "send_thread_streaming_command",
)
_OF_A_SCHEDULE = ("get_schedule", "patch_schedule", "delete_schedule")


def _links(name: str, place: str, operations: tuple[str, ...]) -> dict[int | str, dict[str, Any]]:
    parameters = {name: f"$response.body#{place}"}
    return {200: {"links": {o: {"operationId": o, "parameters": parameters} for o in operations}}}


TO_RUN = _links("run_id", "/run_id", _OF_A_RUN)
TO_WAITED_RUN = _links("run_id", "/run/run_id", _OF_A_RUN)
TO_THREAD = _links("thread_id", "/thread_id", _OF_A_THREAD)
TO_SCHEDULE = _links("schedule_id", "/schedule_id", _OF_A_SCHEDULE)
"""For a route's `responses`."""
