"""The examples that a user copies run: scripts as they are, notebooks cell by cell, with their outputs kept."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SHOWN = {
    "langchain_chain": r"\w.*(\n- .*\w.*){3}\n.*\w",
    "langchain_extraction": r"(item='.*' amount=-?\d+ urgency='(low|high)'\n){3}",
    "langchain_graph": r"human: Why is the sky blue\?\nai: .*\w",
    "langchain_qa": r"\[stuff\] .*\w.*\[extract\] .*`hfl`.*\[1\] models\.md, line \d+: All .*summary: .*\w",
    "llama_index_chat": r"(user: [^\n]+\?\nassistant: .*\w.*){2}",
    "llama_index_query": r"\w.*\n0\.\d{3} models\.md\n0\.\d{3} ",
    "llama_index_retriever": r"\w.*\n   models\.md, line \d+\n.*subject='.*' statement='.*'",
}
"""What each script shows, whatever words the model finds."""
pytestmark = pytest.mark.usefixtures("smollm2")

EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=250, resources={"metadata": {"path": sys.argv[2]}}).execute()
"""


def run(*command: str) -> str:
    # One thread: two would wait for each other on a busy machine, and the bundled model needs no more.
    environment = os.environ | {"OMP_THREAD_LIMIT": "1"}
    ran = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_examples_are_these() -> None:
    assert [path.stem for path in SCRIPTS] == sorted(SHOWN)
    assert [path.stem for path in NOTEBOOKS] == ["document_qa_langchain", "document_qa_llama_index"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs(script: Path) -> None:
    assert re.search(SHOWN[script.stem], run(str(script)), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    run("-c", EXECUTE, str(notebook), str(EXAMPLES))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_outputs_are_kept(notebook: Path) -> None:
    import nbformat

    read = nbformat.read(notebook, as_version=4)
    nbformat.validate(read)
    cells = [cell for cell in read.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert len([cell for cell in cells if cell.outputs]) >= len(cells) - 2
    assert not [output for output in outputs if output.output_type == "error"]
    # A small model errs easily: what is kept for readers to see is what the manual says.
    answers = "".join(output.get("text", "") for output in outputs)
    assert "tuned on 5 million instructions" in answers
