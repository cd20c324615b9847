"""What Serve says of the models' applications. Blocking calls of its controller."""

import re

from ray import serve
from ray.serve.schema import ApplicationStatusOverview

from serve_app.models.keeping import AppPhase, AppState
from serve_app.models.names import version_behind

_PHASES: dict[str, AppPhase] = {
    "RUNNING": "running",
    # Replicas that are bad are replaced; calls go to the others.
    "UNHEALTHY": "running",
    "DEPLOY_FAILED": "failed",
    "DELETING": "going",
}
_TOLD = re.compile(r"manta\.errors\.(\w+): (\w+): (.*)")


def model_apps() -> dict[str, AppState]:
    """By the application's name."""
    return {
        app: _state(overview)
        for app, overview in serve.status().applications.items()
        if version_behind(app) is not None
    }


def _state(overview: ApplicationStatusOverview) -> AppState:
    running = sum(
        count
        for deployment in overview.deployments.values()
        for state, count in deployment.replica_states.items()
        if state == "RUNNING"
    )
    phase = _PHASES.get(overview.status, "deploying")
    cause = _cause(overview) if phase == "failed" else ""
    return AppState(phase, cause, running, overview.last_deployed_time_s)


def _cause(overview: ApplicationStatusOverview) -> str:
    code, text = told(overview)
    return f"{code}: {text}" if code else text


def told(overview: ApplicationStatusOverview) -> tuple[str, str]:
    """Why an application failed, as a code of ours, or none, and a text.

    Serve keeps a replica's exception only as text: its last line with one of our errors is the cause.
    """
    message = "\n".join([overview.message, *(d.message for d in overview.deployments.values())])
    found = _TOLD.findall(message)
    if found:
        _, code, text = found[-1]
        return code, text
    return "", " ".join(message.split())[-300:]
