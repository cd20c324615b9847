"""What users name in `runnable` steps: graphs and chains built when their module is imported, and builders."""

import asyncio
import threading
import time
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from agents.chat_model import MantaChatModel, PlatformChatModel
from agents.recorded_tool import recorded_tool
from manta.protocols import AgentContext

model = PlatformChatModel(max_tokens=40)
weighed: list[str] = []
orders: list[str] = []


@tool
async def weigh(thing: str) -> dict[str, int]:
    """Weighs a thing, in grams."""
    weighed.append(thing)
    return {"grams": len(thing)}


@tool
def order(thing: str) -> str:
    """Orders a thing."""
    orders.append(thing)
    return f"{thing} is on its way"


class Talk(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


weigh_once = recorded_tool(weigh)
order_once = recorded_tool(order, idempotent=False)
able = model.bind_tools([weigh_once, order_once])


async def think(state: Talk) -> dict[str, Any]:
    return {"messages": [await able.ainvoke(state["messages"])]}


def whither(state: Talk) -> str:
    return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END


def _graph(handle_tool_errors: bool = True) -> Any:
    graph = StateGraph(Talk)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([weigh_once, order_once], handle_tool_errors=handle_tool_errors))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", whither, ["tools", END])
    graph.add_edge("tools", "think")
    return graph


uncompiled = _graph()
agent = uncompiled.compile()
remembering = uncompiled.compile(checkpointer=MemorySaver())
stopping = uncompiled.compile(interrupt_before=["tools"])


def _ask(state: Talk) -> dict[str, Any]:
    return {"messages": [HumanMessage(str(interrupt("may I?")))]}


_asking = StateGraph(Talk)
_asking.add_node("ask", _ask)
_asking.add_edge(START, "ask")
_asking.add_edge("ask", END)
asking = _asking.compile()

created = create_agent(PlatformChatModel(), tools=[weigh_once])

chain = ChatPromptTemplate.from_messages([("system", "Be {mood}."), ("user", "{question}")]) | model


def built(context: AgentContext) -> Any:
    """A chain over the task's own model, made anew for each task."""
    return ChatPromptTemplate.from_template("{question}") | MantaChatModel(model=context.model)


async def built_late(context: AgentContext) -> Any:
    await asyncio.sleep(0)
    return RunnableLambda(lambda given: {"model": context.task.model, **given})


def built_wrong(context: AgentContext) -> Any:
    return 7


def _in_thread(given: dict[str, Any]) -> dict[str, Any]:
    answer = model.invoke(given["question"])
    return {"answer": answer, "main": threading.current_thread() is threading.main_thread()}


in_thread = RunnableLambda(_in_thread)


class OnlySync:
    """Not LangChain's, but it can be invoked."""

    def invoke(self, given: dict[str, Any]) -> Any:
        weight = weigh_once.invoke({"thing": given["question"]})
        return {"said": model.invoke(given["question"]).text, "weight": weight}


only_sync = OnlySync()


async def _on_loop(given: dict[str, Any]) -> str:
    return model.invoke(given["question"]).text


on_loop = RunnableLambda(_on_loop)


def _fails(given: dict[str, Any]) -> None:
    raise KeyError("gone")


failing = RunnableLambda(_fails)


async def _other(given: dict[str, Any]) -> str:
    return (await PlatformChatModel(model_name="large", show_tokens=False).ainvoke(given["question"])).text


other_model = RunnableLambda(_other)

late_calls: list[str] = []
may_go_on = threading.Event()


def _outlives(given: dict[str, Any]) -> str:
    """A thread that is still there when its step was cancelled long ago."""
    late_calls.append("started")
    may_go_on.wait(10)
    try:
        return model.invoke("too late").text
    except Exception as error:
        late_calls.append(getattr(error, "code", type(error).__name__))
        raise
    finally:
        late_calls.append("ended")


outliving = RunnableLambda(_outlives)


async def wait_until(condition: Any) -> None:
    """For what happens in another thread."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
