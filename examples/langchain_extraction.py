"""Structured extraction: the model can write nothing but what the class allows."""

from typing import Literal

from langchain.agents import create_agent
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel

from hanpaca.integrations.langchain import ChatHanpaca


class Order(BaseModel):
    """What a customer wants."""

    item: str
    amount: int
    urgency: Literal["low", "high"]


chat = ChatHanpaca(model="smollm2", temperature=0, max_tokens=100)
prompt = ChatPromptTemplate.from_messages([("human", "Extract item, amount and urgency of the order.\n\n{mail}")])
chain = prompt | chat.with_structured_output(Order)

for mail in ("Please send me 12 blankets as soon as you can!", "I might need two llamas some day."):
    print(chain.invoke({"mail": mail}))

agent = create_agent(chat, tools=[], response_format=Order)
print(agent.invoke({"messages": [("human", "Order: 3 bags of hay, today.")]})["structured_response"])
