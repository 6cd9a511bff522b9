"""`hanpaca rope`: a model's context extension, spelled for llama.cpp, transformers, vLLM and llama-server.

Opens no weights: a catalog name needs no download, a file or folder only its head.
"""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any, Literal

from ...core.errors import UnsupportedFeature
from .arguments import Parser, add_json
from .output import as_json, say


def run(argv: list[str]) -> int:
    """Print the plan for one context length, and its four spellings."""
    from ...core.catalog import rope_for
    from ...core.rope import plan

    parser = Parser("rope", "Say how a model serves a context of N tokens, for each tool that may run it.")
    parser.add_argument(
        "model", help="a name from `hanpaca models` (it need not be downloaded), a .gguf file, a folder"
    )
    parser.add_argument("--context", type=int, metavar="N", help="prompt and answer together; default: the model's own")
    parser.add_argument("--alpha", type=_alpha, default="auto", help="a fixed NTK alpha; default: from the length")
    parser.add_argument(
        "--extension",
        default="auto",
        metavar="auto|ntk|yarn",
        help="what stretches the model beyond its window; default: auto, which suits the model",
    )
    add_json(parser)
    found = parser.parse(argv)
    rope = rope_for(found.model)
    chosen = plan(rope, rope.native_context if found.context is None else found.context, found.alpha, found.extension)
    flags = {"vllm": _or_reason(chosen.vllm), "llama_server": chosen.llama_server()}
    report = {
        "model": found.model,
        "context": chosen.context,
        "native_context": rope.native_context,
        "method": _method(chosen),
        "alpha": chosen.alpha,
        "extension": chosen.extension,
        "asked_extension": found.extension,
        "fixed_alpha": None if found.alpha == "auto" else found.alpha,
        "base": chosen.base,
        "llama_cpp": chosen.llama_cpp(),
        "transformers": _or_reason(chosen.transformers),
        **flags,
    }
    if found.json:
        as_json(report)
    else:
        _print(report)
    return 0


def _alpha(text: str) -> float | Literal["auto"]:
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number of at least 1, or auto, not {text!r}") from None


def _or_reason(render: Any) -> Any:
    """A rendering, or why this tool cannot have one."""
    try:
        return render()
    except UnsupportedFeature as error:
        return str(error)


def _method(chosen: Any) -> str:
    own = {
        "none": "",
        "linear": f"position interpolation ×{chosen.rope.factor:g}",
        "yarn": f"YaRN ×{chosen.rope.factor:g} from {chosen.rope.original:,}",
        "llama3": f"Llama 3's factors, ×{chosen.rope.factor:g} from {chosen.rope.original:,}",
        "file": "the file's own factors",
    }[chosen.rope.scaling]
    if chosen.extension == "yarn":
        return f"{own}, without training"
    on_top = "" if chosen.is_native else f"adaptive NTK, alpha {chosen.alpha:g}, base {chosen.base:,.1f}"
    return ", then ".join(filter(None, [own, on_top])) or "as trained"


def _print(report: dict[str, Any]) -> None:
    say(f"{report['model']}: {report['context']:,} tokens (its own window: {report['native_context']:,})")
    say(f"method        {report['method']}")
    alpha = "" if report["fixed_alpha"] is None else f", alpha={report['fixed_alpha']:g}"
    asked = "" if report["asked_extension"] == "auto" else f', extension="{report["asked_extension"]}"'
    say(f"hanpaca       load({report['model']!r}, context={report['context']}{alpha}{asked})")
    say("llama.cpp     " + ", ".join(f"{name} = {value:.9g}" for name, value in report["llama_cpp"].items()))
    for name in ("transformers", "vllm", "llama_server"):
        value, title = report[name], {"vllm": "vllm serve", "llama_server": "llama-server"}.get(name, name)
        text = f"rope_parameters = {json.dumps(value)}" if isinstance(value, dict) else value
        say(f"{title:<13} {shlex.join(text) if isinstance(text, list) else text}")
