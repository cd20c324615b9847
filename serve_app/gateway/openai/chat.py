"""/v1/chat/completions."""

from typing import Annotated, Any, Literal

from fastapi.responses import JSONResponse, Response
from pydantic import Field, WithJsonSchema

from manta.messages import ChatRequest
from serve_app.gateway.body_types import WHOLE
from serve_app.gateway.deps import DeskDep
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.bodies import Completing, RunOptions, Tokens
from serve_app.gateway.openai.chat_shapes import ChatShapes
from serve_app.gateway.openai.forms import ResponseFormat
from serve_app.gateway.openai.frames import frames
from serve_app.gateway.openai.gathering import begun, gathered
from serve_app.gateway.openai.routing import RUNNING, openai_router, run_headers
from serve_app.gateway.openai.sources import answering
from serve_app.gateway.openai.tooling import each, read_tools
from serve_app.gateway.openai.wire_schemas import CHAT_MESSAGES, CHAT_TOOL_CHOICE, CHAT_TOOLS
from serve_app.gateway.streaming import EventStream
from serve_app.openai_wire import message_from_wire

router = openai_router()


class ChatBody(Completing):
    refused = {
        "functions": "send tools",
        "function_call": "send tool_choice",
        "audio": "models answer in text",
        "web_search_options": "give the model a tool that searches",
    }

    model: str | None = None
    """A model, or a graph as `manta/NAME`; null is the platform's default model."""
    messages: Annotated[list[Any], Field(min_length=1), WithJsonSchema(CHAT_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    """With `logprobs` only."""
    tools: Annotated[list[Any], WithJsonSchema(CHAT_TOOLS)] | None = None
    tool_choice: Annotated[Any, WithJsonSchema(CHAT_TOOL_CHOICE)] = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: str | None = None
    """A hint that no model takes yet."""
    verbosity: str | None = None
    """Likewise."""
    prediction: dict[str, Any] | None = None
    """It could only save time."""
    functions: None = None
    function_call: None = None
    audio: None = None
    web_search_options: None = None
    manta: RunOptions | None = None
    """Of a graph's run."""

    def request(self) -> ChatRequest:
        """Raises BadField."""
        if self.top_logprobs is not None and not self.logprobs:
            raise BadField("top_logprobs is for logprobs", fix="send logprobs: true", param="top_logprobs")
        tools, choice = read_tools(self.tools, self.tool_choice)
        return ChatRequest(
            messages=tuple(each(self.messages, message_from_wire, "messages")),
            tools=tools,
            tool_choice=choice,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            response_format=self.form(self.response_format),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            n=self.n or 1,
            **self.drawing(),
        )


@router.post("/chat/completions", responses=RUNNING)
async def chat_completions(body: ChatBody, desk: DeskDep) -> Any:
    """`stream: true` answers with server-sent events. Closing the connection ends the work."""
    request = body.request()
    name = body.model or desk.platform.default_model
    source = await answering(desk, name, request, body.manta, body.metadata)
    shapes = ChatShapes(name, source.run, logprobs=bool(body.logprobs), usage=body.usage_wanted)
    if not body.stream:
        answers, usage = await gathered(source.chunks, request.n)
        return JSONResponse(shapes.whole(answers, usage), headers=run_headers(source.run))
    told = frames(await begun(source.chunks), shapes, body.usage_wanted)
    answer: Response = EventStream(told, source.chunks)
    answer.headers.update(run_headers(source.run))
    return answer
