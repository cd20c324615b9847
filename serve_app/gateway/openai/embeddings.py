"""/v1/embeddings."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from serve_app.gateway.deps import PlatformDep
from serve_app.gateway.openai.bodies import OpenAIBody
from serve_app.gateway.openai.routing import ASKING, openai_router

EMBEDDING_MODEL = "all-minilm-l6-v2"
MAX_INPUTS = 2048

router = openai_router()
NoEmptyText = Annotated[str, Field(min_length=1)]


class EmbeddingBody(OpenAIBody):
    refused = {"dimensions": "a model's vectors have the length they have"}

    model: str | None = EMBEDDING_MODEL
    input: NoEmptyText | Annotated[list[NoEmptyText], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    dimensions: None = None


@router.post("/embeddings", responses=ASKING)
async def embeddings(body: EmbeddingBody, platform: PlatformDep) -> dict[str, Any]:
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors, tokens = await platform.embedder.embed_counted(texts)
    found = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": found, "model": EMBEDDING_MODEL, "usage": usage}


def _encoded(vector: list[float], encoding: str | None) -> list[float] | str:
    if encoding != "base64":
        return vector
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
