"""An LCEL chain: a prompt, a model, a parser; whole, streamed, in a batch, and asynchronous."""

import asyncio

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from hanpaca.integrations.langchain import ChatHanpaca

prompt = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("human", "What is {thing}?")])
chain = prompt | ChatHanpaca(model="smollm2", temperature=0, max_tokens=60) | StrOutputParser()

print(chain.invoke({"thing": "a llama"}))

for piece in chain.stream({"thing": "the sun"}):
    print(piece, end="", flush=True)
print()

for answer in chain.batch([{"thing": "wool"}, {"thing": "grass"}, {"thing": "a mountain"}]):
    print("-", answer)

print(asyncio.run(chain.ainvoke({"thing": "the moon"})))
