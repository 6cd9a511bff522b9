"""A LangGraph loop without tools: one node writes, another judges, until the answer is short enough."""

import operator
from typing import Annotated

from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from hanpaca.integrations.langchain import ChatHanpaca

chat = ChatHanpaca(model="smollm2", temperature=0, max_tokens=60)


class State(TypedDict):
    messages: Annotated[list[AnyMessage], operator.add]
    rounds: int


def write(state: State) -> dict:
    return {"messages": [chat.invoke(state["messages"])], "rounds": state["rounds"] + 1}


def judge(state: State) -> dict:
    words = len(state["messages"][-1].text.split())
    return {"messages": [HumanMessage(f"That is {words} words. Say it in fewer than ten.")]}


def content(state: State) -> str:
    return END if state["rounds"] == 3 or len(state["messages"][-1].text.split()) < 10 else "judge"


graph = StateGraph(State)
graph.add_node("write", write)
graph.add_node("judge", judge)
graph.add_edge(START, "write")
graph.add_conditional_edges("write", content)
graph.add_edge("judge", "write")

result = graph.compile().invoke({"messages": [HumanMessage("Why is the sky blue?")], "rounds": 0})
for message in result["messages"]:
    print(f"{message.type}: {message.text}")
