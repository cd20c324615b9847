"""Agents and a tool of a user's own, shipped to the workers: what the platform's tests run."""

import asyncio
from pathlib import Path
from typing import Any

from manta.faults import note_side_effect
from manta.messages import ChatMessage, ChatRequest
from manta.protocols import AgentContext


async def talker(context: AgentContext) -> str:
    """One model call after another, each of `tokens` tokens; tokens are shown as they come."""
    said = []
    for number in range(context.task.input.get("calls", 1)):
        question = ChatMessage("user", f"{context.task.input['say']} {number}")
        request = ChatRequest((question,), max_tokens=context.task.input.get("tokens", 5))
        text = ""
        async for chunk in context.model.stream(request):
            text += chunk.text
            context.emit_token(chunk.text)
        said.append(text.strip())
    return " | ".join(said)


async def noter(context: AgentContext) -> list[int]:
    """Calls the side effect `times` times, waiting before each until the file `gate` exists, if one is named."""
    done = []
    for number in range(context.task.input["times"]):
        gate = context.task.input.get("gate")
        arguments = {"number": number}

        async def act(number: int = number) -> int:
            note_side_effect("tool", run=context.task.scope.run, number=number)
            return number

        done.append(await context.call_tool("note", arguments, act))
        while gate and number == 0 and not Path(gate).exists():
            await asyncio.sleep(0.05)
    return done


async def greeter(context: AgentContext) -> dict[str, Any]:
    return {"greeting": f"hello {context.task.input['name']}"}


def note(text: str) -> dict[str, Any]:
    """Give a text back with its length."""
    return {"text": text, "length": len(text)}


async def placed(context: AgentContext) -> str:
    """Runs only where the cluster has the resource its pool asks for."""
    return "here"


def reviewer(context: AgentContext) -> Any:
    """A LangGraph graph: the model drafts, and where it said something a recorded tool counts its words."""
    from typing import TypedDict

    from langchain_core.tools import StructuredTool
    from langgraph.graph import END, START, StateGraph

    from agents.chat_model import PlatformChatModel
    from agents.recorded_tool import recorded_tool

    class State(TypedDict, total=False):
        topic: str
        draft: str
        words: int

    def count(text: str) -> int:
        """Counts the words of a text."""
        note_side_effect("counted", run=context.task.scope.run)
        return len(text.split())

    model = PlatformChatModel(max_tokens=24)
    counter = recorded_tool(StructuredTool.from_function(count))

    async def draft(state: State) -> State:
        return {"draft": (await model.ainvoke(f"Write a sentence about {state['topic']}.")).text}

    async def measure(state: State) -> State:
        return {"words": await counter.ainvoke({"text": state["draft"]})}

    graph = StateGraph(State)
    graph.add_node("draft", draft)
    graph.add_node("measure", measure)
    graph.add_edge(START, "draft")
    graph.add_conditional_edges("draft", lambda state: "measure" if state["draft"] else END, ["measure", END])
    graph.add_edge("measure", END)
    return graph.compile()
