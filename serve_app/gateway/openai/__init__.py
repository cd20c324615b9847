"""Models and graphs in the shapes of OpenAI's API."""

from fastapi import APIRouter

from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.openai import (
    batches,
    chat,
    completions,
    embeddings,
    files,
    kept_responses,
    models,
    responses,
)
from serve_app.gateway.openai.embeddings import EMBEDDING_MODEL as EMBEDDING_MODEL

router = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)
for _room in (models, chat, completions, responses, kept_responses, embeddings, files, batches):
    router.include_router(_room.router)
