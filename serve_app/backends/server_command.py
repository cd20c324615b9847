"""The command line of a model's own inference server: presets by name, or a template from the settings."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from manta.model_settings import ModelSettings

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Preset:
    """How one kind of server is started. `window`: the arguments that only a configured context window adds."""

    command: tuple[str, ...]
    window: tuple[str, ...] = ()
    health_path: str = "/health"
    served_as_source: bool = False
    """The server knows the model by its source only."""


def _words(template: str) -> tuple[str, ...]:
    """Each word is one argument, whatever its placeholders come to."""
    return tuple(template.split())


PRESETS: Mapping[str, Preset] = {
    # https://docs.vllm.ai/en/latest/cli/serve/
    "vllm": Preset(
        command=_words(
            "vllm serve {source} --host {host} --port {port} --served-model-name {model}"
            " --tensor-parallel-size {tensor_parallel}"
        ),
        window=_words("--max-model-len {context_window}"),
    ),
    # https://docs.sglang.io/docs/advanced_features/server_arguments
    "sglang": Preset(
        command=_words(
            "{python} -m sglang.launch_server --model-path {source} --host {host} --port {port}"
            " --served-model-name {model} --tp {tensor_parallel}"
        ),
        window=_words("--context-length {context_window}"),
    ),
    # https://nvidia.github.io/TensorRT-LLM/latest/commands/trtllm-serve/trtllm-serve.html
    "trtllm": Preset(
        command=_words(
            "trtllm-serve {source} --host {host} --port {port} --served_model_name {model}"
            " --tp_size {tensor_parallel}"
        ),
        window=_words("--max_seq_len {context_window}"),
    ),
    # https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/client_guide/openai_readme.html
    # The source is a model repository, whose files say how the model is spread; its name there is `model`.
    "triton": Preset(
        command=_words(
            "{python} /opt/tritonserver/python/openai/openai_frontend/main.py"
            " --model-repository {source} --host {host} --openai-port {port}"
        ),
        health_path="/health/ready",
    ),
    # https://github.com/ggml-org/llama.cpp/tree/master/tools/server
    "llama_cpp": Preset(
        command=_words(
            "llama-server --model {source} --host {host} --port {port} --alias {model} --jinja --threads {threads}"
        ),
        window=_words("--ctx-size {context_window}"),
    ),
    # https://huggingface.co/docs/transformers/main/en/serving
    "transformers": Preset(
        command=_words("transformers serve {source} --host {host} --port {port}"),
        served_as_source=True,
    ),
}
_OWN = Preset(command=())


@dataclass(frozen=True, slots=True)
class Launch:
    """A server that can be started: its arguments, where it will answer, and its name of the model."""

    arguments: tuple[str, ...]
    base_url: str
    health_url: str
    model: str


def launch(name: str, settings: ModelSettings, port: int, threads: int) -> Launch:
    """What starts the server of model `name` on a port of the loopback interface.

    Args:
        threads: processor cores that the server may use.
    """
    chosen = settings.launch
    preset = PRESETS.get(chosen.preset, _OWN)
    model = settings.model or (settings.source if preset.served_as_source else name)
    values = {
        "host": HOST,
        "port": port,
        "source": settings.source,
        "model": model,
        "tensor_parallel": settings.tensor_parallel or max(1, int(settings.replicas.num_gpus)),
        "context_window": settings.context_window,
        "python": sys.executable,
        "threads": threads,
    }
    window = preset.window if settings.context_window else ()
    template = (*(chosen.command or preset.command), *window, *chosen.args)
    root = f"http://{HOST}:{port}"
    return Launch(
        arguments=tuple(argument.format_map(values) for argument in template),
        base_url=root + chosen.base_path,
        health_url=root + (chosen.health_path or preset.health_path),
        model=model,
    )


def search_path(path: str) -> str:
    """PATH with the folder of this Python's own commands first, which need not be on it."""
    return os.pathsep.join([os.path.dirname(sys.executable), *([path] if path else [])])
