"""From a model's settings to its backend. Heavy libraries are imported only by the backend that needs them."""

from manta.config import ModelSettings
from serve_app.backends.base import Backend


def build_backend(name: str, settings: ModelSettings) -> Backend:
    match settings.backend:
        case "torch":
            from serve_app.backends.torch_backend import TorchBackend

            return TorchBackend(name, settings)
        case "server":
            from serve_app.backends.server import ServerBackend

            return ServerBackend(name, settings)
        case "remote":
            from serve_app.backends.remote import RemoteBackend

            return RemoteBackend(name, settings)
        case "langchain":
            from serve_app.backends.langchain_backend import LangChainBackend

            return LangChainBackend(name, settings)
        case "sleep":
            from serve_app.backends.sleep import SleepBackend

            return SleepBackend(name, settings)
