"""A stand-in supervisor for tests of starting and stopping: `python supervisor.py HOME BEHAVIOUR [ADDRESS]`.

It keeps the same files as the real one and has a child and a grandchild of its own session each.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

CHILD = """
import subprocess, sys, signal
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "1":
    subprocess.run([sys.executable, "-c", sys.argv[3], sys.argv[1], "0", ""], start_new_session=True)
signal.pause()
"""


def say(home: Path, component: str, state: str, detail: str = "") -> None:
    line = json.dumps({"component": component, "state": state, "detail": detail, "seconds": 0.1})
    with (home / "startup.jsonl").open("a") as file:
        file.write(line + "\n")


def main() -> None:
    home, behaviour = Path(sys.argv[1]), sys.argv[2]
    address = sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:1"
    if behaviour == "dies":
        say(home, "ray", "starting")
        sys.exit("Traceback: no such thing as a free lunch")
    if behaviour == "fails":
        say(home, "models", "failed", "model_load_error: a broken file (mend it)")
        say(home, "platform", "failed")
        sys.exit(1)
    stubborn = "stubborn" if behaviour == "stubborn" else "polite"
    child = subprocess.Popen([sys.executable, "-c", CHILD, stubborn, "1", CHILD])
    while len(psutil.Process(child.pid).children()) < 1:
        time.sleep(0.01)

    def end(number: int, frame: object) -> None:
        for process in psutil.Process().children(recursive=True):
            process.terminate()
        child.wait()
        say(home, "platform", "stopped")
        (home / "platform.json").unlink()
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else end)
    say(home, "ray", "ready", "2 CPUs")
    if behaviour == "hangs":
        signal.pause()
    me = {"pid": os.getpid(), "created": psutil.Process().create_time(), "address": address, "version": "0"}
    (home / "platform.json").write_text(json.dumps(me))
    say(home, "platform", "ready")
    while True:
        signal.pause()


main()
