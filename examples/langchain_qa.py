"""Questions about your own files, with sources: a library, a retriever, and the ways to answer."""

import tempfile
from pathlib import Path

from hanpaca.integrations.langchain import ChatHanpaca, HanpacaRetriever, document_summary, question_answering
from hanpaca.rag import Library

manual = Path(__file__).parents[1] / "docs" / "en"
chat = ChatHanpaca(model="smollm2", temperature=0, max_tokens=100)

with tempfile.TemporaryDirectory() as folder, Library.open(folder) as library:
    library.sync([manual / "models.md", manual / "quantization.md"])
    retriever = HanpacaRetriever(library=library, k=3)
    for mode in ("stuff", "extract"):
        result = question_answering(retriever, chat, mode=mode).invoke(
            "Which organisation publishes the Chinese-Alpaca-2 models?"
        )
        print(f"[{mode}] {result['answer']}")
        for source in result["sources"]:
            print(f"   [{source['number']}] {Path(source['file']).name}, line {source['line']}: {source['quote'][:60]}")
    print("summary:", document_summary(chat, retriever).invoke("quantization.md")["summary"])
