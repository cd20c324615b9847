"""An agent and a tool of your own; nothing of Manta's source is touched."""

from typing import Any

from manta.messages import ChatMessage, ChatRequest
from manta.protocols import AgentContext


async def slogan(context: AgentContext) -> dict[str, Any]:
    """Asks the model for a slogan; the call is recorded, so a crash does not pay for it twice."""
    topic = context.task.input["topic"]
    request = ChatRequest((ChatMessage("user", f"Write a short slogan for {topic}."),), max_tokens=30)
    text = ""
    async for chunk in context.model.stream(request):
        text += chunk.text
        context.emit_token(chunk.text)
    return {"topic": topic, "slogan": text.strip()}


def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())
