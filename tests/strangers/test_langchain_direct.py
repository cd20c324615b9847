"""LangChain's standard tests of chat models, on our class over the real engine."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from agents.chat_model import MantaChatModel
from agents.scripted import ScriptedModel
from manta.messages import Sampling
from serve_app.backends.torch_backend import TorchBackend
from tests.strangers.conftest import LOOPS, MAX_TOKENS, MODEL
from tests.strangers.suite import SmallModelSuite

SHORT: dict[str, Any] = {
    "temperature": 0,
    "max_tokens": MAX_TOKENS,
    # So small a model goes on calling until it is cut off.
    "parallel_tool_calls": False,
    "sampling": Sampling(frequency_penalty=LOOPS),
}


class TestUnits(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return MantaChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedModel([]), "model_name": "scripted"}


class TestTheEngine(SmallModelSuite):
    _backend: TorchBackend

    @pytest.fixture(autouse=True)
    def _with_the_backend(self, backend: TorchBackend) -> None:
        type(self)._backend = backend

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return MantaChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": self._backend, "model_name": MODEL}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return SHORT

    @pytest.fixture
    def model(self, backend: TorchBackend, request: Any) -> BaseChatModel:
        extra = getattr(request, "param", None) or {}
        return MantaChatModel(model=backend, model_name=MODEL, **SHORT, **extra)
