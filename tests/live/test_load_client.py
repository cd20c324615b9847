"""A load client that others wrote, against the gateway as it is: guidellm, where it is installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live.conftest import LivePlatform

# Its dependencies are not ours: it has an environment of its own, made by `make guidellm`, which runs this.
GUIDELLM = os.environ.get("GUIDELLM") or shutil.which("guidellm")
REQUESTS, STREAMS, TOKENS = 24, 4, 8


@pytest.mark.skipif(GUIDELLM is None, reason="guidellm is not on the path, nor named by GUIDELLM")
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_guidellm_measures_the_gateway(platform: LivePlatform, tmp_path: Path, route: str):
    prompts = tmp_path / "prompts.jsonl"
    asked = [
        {"prompt": f"Question {n}: what is a tide?", "output_tokens_count": TOKENS} for n in range(REQUESTS)
    ]
    prompts.write_text("\n".join(map(json.dumps, asked)))
    report = tmp_path / "report.json"
    command = [str(GUIDELLM), "run", "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={platform.url},model=slow,request_format={route}"]
    command += ["--profile", f"kind=concurrent,streams={STREAMS}"]
    command += ["--constraint", f"kind=max_requests,count={REQUESTS}"]
    command += ["--data", f"kind=json_file,path={prompts}"]
    command += ["--output", f"kind=json,path={report}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    metrics = benchmark["metrics"]
    assert metrics["request_totals"] == {
        "successful": REQUESTS,
        "errored": 0,
        "incomplete": 0,
        "total": REQUESTS,
    }
    assert metrics["output_token_count"]["successful"]["mean"] == TOKENS
    assert metrics["prompt_token_count"]["successful"]["mean"] > 0
    # Each token of each stream came by itself.
    assert metrics["inter_token_latency_ms"]["successful"]["count"] == REQUESTS * (TOKENS - 1)
