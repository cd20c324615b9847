"""The strategy `agent`: the model chooses the next tool until it answers, by LangChain's `create_agent`."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema
from pydantic import BaseModel

from manta.errors import InvalidInput, ModelError
from manta.protocols import AgentContext
from tools.toolbox import Toolbox, as_tool

MAX_STEPS = 12
MAX_TOOL_CALLS = 24
RESERVE_TOKENS = 512


async def run_tool_loop(
    context: AgentContext,
    *,
    system: str,
    user: str,
    tools: Toolbox | Iterable[Any],
    response_schema: Mapping[str, Any] | type[BaseModel] | None = None,
    max_steps: int = MAX_STEPS,
    max_tool_calls: int = MAX_TOOL_CALLS,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    show_tokens: bool = False,
    look_first: bool = False,
) -> Any:
    """Let the model work with tools until it answers.

    Args:
        tools: a toolbox, or tools: Manta's, plain functions, LangChain's. Each call goes through
            `context.call_tool` under the model's id for it.
        response_schema: a JSON Schema (object) or a pydantic class the answer must follow.
        max_steps: model calls at most. The last one sees no tools.
        max_tool_calls: tool calls at most; the model is told when none are left.
        max_tokens: tokens of one answer at most.
        show_tokens: hand the model's text to the context's watchers as it comes.
        look_first: the first answer must be a tool call.

    Returns:
        The answer's text, or with a schema the checked JSON object.

    Raises:
        BudgetExceeded: `max_steps` were not enough.
        ModelError: the model failed, or broke the schema to the end.
    """
    # LangChain takes over a second to import: only those who run a loop pay for it.
    from langchain_core.messages import AIMessage, HumanMessage

    toolbox = tools if isinstance(tools, Toolbox) else Toolbox(as_tool(one) for one in tools)
    schema = _json_schema(response_schema)
    if max_steps < 1:
        raise InvalidInput("max_steps must be at least 1", fix="mend the agent's options")
    graph = await _build(
        context,
        toolbox,
        system=system,
        schema=schema,
        max_steps=max_steps,
        max_tool_calls=max_tool_calls,
        max_tokens=max_tokens,
        temperature=temperature,
        show_tokens=show_tokens,
        look_first=look_first,
    )
    messages: list[Any] = [HumanMessage(content=user)]
    while True:
        # LangGraph counts a step for the model and one for the tools; the budget is what shall end the loop.
        state = await graph.ainvoke({"messages": messages}, {"recursion_limit": 4 * max_steps + 10})
        messages = state["messages"]
        text = next((m.text for m in reversed(messages) if isinstance(m, AIMessage)), "")
        if schema is None:
            return text
        answer, problem = _checked(schema, state.get("structured_response"), text)
        if problem is None:
            return answer
        if sum(isinstance(m, AIMessage) for m in messages) >= max_steps:
            raise ModelError(f"the model's answer breaks its schema: {problem}", fix="use a stronger model")
        messages = [
            *messages,
            HumanMessage(content=f"The answer breaks the schema: {problem}. Answer again."),
        ]


async def _build(
    context: AgentContext,
    toolbox: Toolbox,
    *,
    system: str,
    schema: dict[str, Any] | None,
    max_steps: int,
    max_tool_calls: int,
    max_tokens: int | None,
    temperature: float,
    show_tokens: bool,
    look_first: bool,
) -> Any:
    from langchain.agents import create_agent
    from langchain.agents.structured_output import ToolStrategy
    from langchain_core.tools import StructuredTool

    from agents.chat_model import MantaChatModel
    from agents.middleware import LookFirst, ModelBudget, ToolRunner, WindowFit

    info = await context.model.info()
    reserve = max_tokens or min(RESERVE_TOKENS, info.context_window // 4)
    model = MantaChatModel(
        model=context.model,
        model_name=context.task.model,
        temperature=temperature,
        max_tokens=max_tokens,
        on_token=context.emit_token if show_tokens else None,
    )

    async def never() -> None:
        raise InvalidInput("tools run in the middleware", fix="keep ToolRunner in the agent's middleware")

    shown = [
        StructuredTool(name=t.name, description=t.description, args_schema=t.parameters, coroutine=never)
        for t in toolbox.values()
    ]
    return create_agent(
        model,
        tools=shown,
        system_prompt=system,
        middleware=[
            ModelBudget(max_steps),
            *([LookFirst()] if look_first else []),
            WindowFit(context.model, info.context_window, reserve),
            ToolRunner(context, toolbox, max_tool_calls),
        ],
        response_format=None if schema is None else ToolStrategy(schema),
    )


def _json_schema(schema: Mapping[str, Any] | type[BaseModel] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    plain = dict(schema) if isinstance(schema, Mapping) else schema.model_json_schema()
    # LangChain draws a random name for a schema without one, and the request would differ at every replay.
    plain.setdefault("title", "answer")
    plain.setdefault("description", "The final answer.")
    return plain


def _checked(schema: dict[str, Any], answer: Any, text: str) -> tuple[Any, str | None]:
    """The answer and what is wrong with it; a model may also have written the object as text."""
    if answer is None:
        try:
            answer = json.loads(text.strip().removeprefix("```json").strip("`\n "))
        except ValueError:
            return None, f"it must be a call of {schema['title']}"
    problem = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(answer)), None)
    if problem is None:
        return answer, None
    where = ".".join(map(str, problem.absolute_path)) or "the object"
    return answer, f"{where}: {problem.message[:300]}"
