"""What goes over HTTP, without a transport: each call of the service as a value, its answer as a dataclass.

The clients only send a `Call` and hand the response to `answer`. The calls are in `runs`, `threads`, `library`,
`files`, `models` and `model_versions` beside this; here are the types that callers of a client meet.
"""

from manta.events import FINAL_STATES
from manta.wire.call import Call, answer, error_of, unreachable
from manta.wire.model_comparison import Comparison
from manta.wire.model_versions import Model, ModelRoute, ModelVersion
from manta.wire.values import (
    Approval,
    ChatReply,
    CollectionInfo,
    Component,
    DocumentInfo,
    Feedback,
    GraphInfo,
    Item,
    Readiness,
    RecordedCall,
    Run,
    RunResult,
    Schedule,
    StepState,
    Thread,
    ThreadState,
    WaitingStep,
)

__all__ = [
    "FINAL_STATES",
    "Approval",
    "Call",
    "ChatReply",
    "CollectionInfo",
    "Comparison",
    "Component",
    "DocumentInfo",
    "Feedback",
    "GraphInfo",
    "Item",
    "Model",
    "ModelRoute",
    "ModelVersion",
    "Readiness",
    "RecordedCall",
    "Run",
    "RunResult",
    "Schedule",
    "StepState",
    "Thread",
    "ThreadState",
    "WaitingStep",
    "answer",
    "error_of",
    "unreachable",
]
