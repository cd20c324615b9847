"""On a GPU all of a step lies there, and none of a recorded one is asked for meanwhile: with tensors that have a
device and a shape but no content, which a build of torch for CUDA can make without a GPU.
"""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from serve_app.engine import bundle
from serve_app.engine.batch import Segment
from serve_app.engine.checkpoint import SafetensorsCheckpoint
from serve_app.engine.engine import EngineConfig
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.model import Transformer

GPU = torch.device("cuda")
PAGE = 8

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this build of torch knows no CUDA")


@pytest.fixture
def shapes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    read = SafetensorsCheckpoint.read

    def shape(checkpoint: SafetensorsCheckpoint, name: str) -> torch.Tensor:
        with _disable_current_modes():
            found = read(checkpoint, name)
        return torch.empty(found.shape, dtype=found.dtype)

    monkeypatch.setattr(SafetensorsCheckpoint, "read", shape)
    monkeypatch.setattr(bundle, "choose_device", lambda name: GPU)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("shapes_only")
def test_a_step_stays_on_the_gpu(small_folder: Path, dtype: str) -> None:
    prompts = [Segment((5, 6, 7), (0,), 0, 1), Segment((5, 6), (3, 4), 7, 1)]
    decoding = [Segment((5,), (1, 2), 9, 1), Segment((6,), (5,), 3, 1)]
    # Fakes only: a real one among them would lie on the CPU.
    with FakeTensorMode():
        model = bundle.load_bundle(small_folder, EngineConfig(dtype=dtype, device="cuda")).model
        assert isinstance(model, Transformer)
        assert model.recorded is not None
        cache = KvCache(model.spec, 16, PAGE, model.dtype, model.device)
        table = torch.zeros(4, 2 + 2, dtype=torch.int64, device=GPU)
        for logits in (model._plain([*decoding, *prompts], cache), model._decode(table, cache)):
            assert logits.device.type == "cuda"
            assert (logits.dtype, logits.shape) == (torch.float32, (4, model.spec.vocab_size))
