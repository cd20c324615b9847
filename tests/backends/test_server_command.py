"""The command lines of servers, and what Serve reserves for a replica that starts one."""

import sys
from typing import Any

import pytest
from pydantic import ValidationError

from manta.config import ModelSettings, ReplicaSettings
from serve_app.backends.server_command import PRESETS, launch, search_path
from serve_app.backends.server_dialects import dialect_of
from serve_app.models.placement import placement


def settings(**more: Any) -> ModelSettings:
    return ModelSettings.model_validate({"backend": "server", "source": "/models/a b", **more})


def test_a_preset_is_filled_in_and_added_to():
    chosen = settings(
        launch={"preset": "vllm", "args": ["--note", "on {port} of {host}"]},
        context_window=4096,
        replicas={"num_gpus": 4},
    )
    made = launch("qwen", chosen, 5001, threads=2)
    expected = (
        "vllm serve SOURCE --host 127.0.0.1 --port 5001 --served-model-name qwen --tensor-parallel-size 4"
    )
    expected += " --max-model-len 4096 --note"
    words = ["/models/a b" if word == "SOURCE" else word for word in expected.split()]
    assert list(made.arguments) == [*words, "on 5001 of 127.0.0.1"]
    assert made.base_url == "http://127.0.0.1:5001/v1"
    assert made.health_url == "http://127.0.0.1:5001/health"
    assert made.model == "qwen"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_what_its_server_needs(preset: str):
    chosen = settings(launch={"preset": preset}, context_window=777, replicas={"num_gpus": 2})
    made = launch("m", chosen, 5001, threads=2)
    assert {"127.0.0.1", "5001", "/models/a b"} <= set(made.arguments)
    # A Triton repository and `transformers serve` say elsewhere how a model is spread and how long its window is.
    own = preset in ("triton", "transformers")
    assert own or "777" in made.arguments
    assert own or preset == "llama_cpp" or "2" in made.arguments
    assert "--" not in "".join(word for word in made.arguments if "{" in word)
    assert dialect_of(chosen) == (preset if preset not in ("trtllm", "triton") else "openai")
    unset = launch("m", settings(launch={"preset": preset}), 5001, threads=2)
    assert "0" not in unset.arguments, "a window that is not set is not passed"


def test_a_command_of_ones_own():
    own = {
        "command": ["{python}", "serve.py", "{{x}}", "{threads}"],
        "health_path": "/up",
        "base_path": "/api",
    }
    made = launch("m", settings(launch=own, model="theirs"), 5001, threads=3)
    assert made.arguments == (sys.executable, "serve.py", "{x}", "3")
    assert (made.base_url, made.health_url) == ("http://127.0.0.1:5001/api", "http://127.0.0.1:5001/up")
    assert made.model == "theirs"
    assert dialect_of(settings(launch=own)) == "openai"
    assert dialect_of(settings(launch=own, dialect="vllm")) == "vllm"


def test_transformers_knows_its_model_by_the_source():
    assert launch("m", settings(launch={"preset": "transformers"}), 5001, 1).model == "/models/a b"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "launch.preset or launch.command"),
        ({"launch": {"preset": "vllm", "command": ["x"]}}, "launch.preset or launch.command"),
        ({"launch": {"command": ["x", "{prot}"]}}, "names what there is not"),
        ({"launch": {"command": ["x", "{port"]}}, "write a brace as two"),
        ({"launch": {"preset": "vllm"}, "tensor_parallel": 2}, "as many replicas.num_gpus"),
        ({"launch": {"preset": "vllm"}, "replicas": {"num_gpus": 1.5}}, "whole number"),
    ],
)
def test_what_cannot_be_started_is_refused_with_the_settings(wrong: dict[str, Any], told: str):
    with pytest.raises(ValidationError, match=told):
        settings(**wrong)


def test_this_pythons_commands_are_found_first():
    assert search_path("/bin").endswith(":/bin")
    assert search_path("") == search_path("/bin").removesuffix(":/bin")


def test_one_gpu_or_part_of_it_is_asked_of_the_actor():
    asked = placement(ReplicaSettings(num_cpus=0.5, num_gpus=0.5, resources={"lab": 1}))
    assert asked == {"ray_actor_options": {"num_cpus": 0.5, "num_gpus": 0.5, "resources": {"lab": 1}}}
    assert placement(ReplicaSettings(num_cpus=1)) == {"ray_actor_options": {"num_cpus": 1, "num_gpus": 0}}


def test_several_gpus_come_from_one_node_all_at_once():
    asked = placement(ReplicaSettings(num_cpus=0, num_gpus=4, resources={"lab": 1}))
    assert asked["placement_group_bundles"] == [{"GPU": 4, "lab": 1}]
    assert asked["placement_group_strategy"] == "STRICT_PACK"
    assert asked["ray_actor_options"]["num_gpus"] == 4


def test_the_kind_of_gpu_is_a_resource_of_the_node():
    asked = placement(ReplicaSettings(num_gpus=1, accelerator_type="L4", resources={"lab": 1}))
    assert asked["ray_actor_options"]["resources"] == {"lab": 1, "accelerator_type:L4": 0.001}
    asked = placement(ReplicaSettings(num_cpus=0, num_gpus=2, accelerator_type="A100-40G"))
    assert asked["placement_group_bundles"] == [{"GPU": 2, "accelerator_type:A100-40G": 0.001}]


def test_serve_takes_these_options():
    from ray import serve

    options = placement(ReplicaSettings(num_cpus=0.5, num_gpus=2, resources={"lab": 1}))

    class Anything:
        pass

    made = serve.deployment(name="x", **options)(Anything)
    assert made.name == "x"
