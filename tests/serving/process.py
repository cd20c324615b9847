"""Models and the gateway on a real Serve without the rest of the platform, in a process of its own.

`python -m tests.serving.process SPEC` starts a Ray of its own and says `READY`. Each line that it then reads is a
number, the name of a coroutine function of `tests.serving.scenes` and its arguments, as JSON; it answers with a line
`ANSWER`, the number and JSON again. It ends with its input, and its Ray with it.
"""

import asyncio
import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manta.config import load_settings
from tests.live.conftest import ROOT, free_port

PATIENCE_S = 240.0


class Serving:
    """The test's end of it."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, log: Path) -> None:
        self.url = url
        self._process = process
        self._log = log
        self._scenes = itertools.count()

    def play(self, scene: str, **arguments: Any) -> Any:
        """What the scene came to."""
        assert self._process.stdin is not None
        number = next(self._scenes)
        self._process.stdin.write(json.dumps([number, scene, arguments]) + "\n")
        self._process.stdin.flush()
        # An earlier one whose test gave up may end meanwhile.
        return json.loads(self.read(f"ANSWER {number} "))

    def read(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        pytest.fail(f"no {word}:\n{self._log.read_text()[-5000:]}")


@contextmanager
def serving(folder: Path, models: Mapping[str, Mapping[str, Any]]) -> Iterator[Serving]:
    """With these models, each at its version 1."""
    from serve_app.__main__ import ray_environment

    port = free_port()
    settings = load_settings(None, {}, {"home": str(folder / "home")})
    environment = {**os.environ, **ray_environment(settings)}
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"folder": str(folder), "port": port, "models": models}))
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.process", str(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=environment,
        )
    try:
        made = Serving(process, f"http://127.0.0.1:{port}", log)
        made.read("READY")
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()


def main(spec_file: str) -> None:
    import ray
    from ray import serve

    from serve_app.supervisor import ray_folder

    spec = json.loads(Path(spec_file).read_text())
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(ray_folder(Path(spec["folder"]))),
    )
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": spec["port"], "request_timeout_s": None},
        )
        _deploy(spec["models"])
        print("READY", flush=True)
        with asyncio.Runner() as runner:
            for line in sys.stdin:
                number, scene, arguments = json.loads(line)
                answer = runner.run(_scene(scene)(**arguments))
                print(f"ANSWER {number} " + json.dumps(answer), flush=True)
    finally:
        ray.shutdown()


def _scene(name: str) -> Callable[..., Any]:
    from tests.serving import scenes

    scene: Callable[..., Any] = getattr(scenes, name)
    return scene


def _deploy(models: Mapping[str, Mapping[str, Any]]) -> None:
    from ray import serve
    from ray.serve.api import RunTarget

    from manta.config import ModelSettings
    from serve_app.gateway.app import gateway_application
    from serve_app.models.deployment import model_application
    from serve_app.models.names import model_app
    from tests.serving.scenes import connect

    settings = {
        name: ModelSettings.model_validate({"backend": "sleep", **given}) for name, given in models.items()
    }
    targets = [
        RunTarget(model_application(name, 1, made, "WARNING"), model_app(name, 1), None)
        for name, made in settings.items()
    ]
    written = {name: made.model_dump(mode="json") for name, made in settings.items()}
    gateway = gateway_application(functools.partial(connect, written), "WARNING")
    serve.run_many([*targets, RunTarget(gateway, "gateway", "/")])


if __name__ == "__main__":
    main(sys.argv[1])
