"""`hanpaca bench`, `tune` and `imatrix`: how fast a model is here, which weight type makes it fastest, and what matters
in its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...core.errors import BadInput, ModelNotFound
from .arguments import Parser, add_json, some_path
from .output import as_json, note, progress, say, size, table


def bench(argv: list[str]) -> int:
    """Prefill, decoding and time to first token of a model on this machine."""
    from ...core import load
    from ...core.evaluation.speed import measure

    parser = Parser("bench", "Measure a model on this machine: prefill, time to first token, decoding.")
    parser.add_argument("model", nargs="?", default="smollm2", help="a name or a .gguf file (default: %(default)s)")
    parser.add_argument(
        "--prompt", type=int, default=512, metavar="TOKENS", help="prompt length (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: one for each physical core)")
    add_json(parser)
    found = parser.parse(argv)
    options = {} if found.threads is None else {"threads": found.threads}
    with load(found.model, **options) as model:
        path = model.source.path
        if path is not None:  # what `tune` chose may be another file than the name says
            note(f"measuring {path.name}")
        speed = measure(model.engine, prompt=found.prompt, on_progress=note)
        if speed.prompt < found.prompt:
            note(f"the prompt had {speed.prompt} tokens, not {found.prompt}: half of the model's context")
    if found.json:
        as_json({"model": found.model, "file": path, **dataclasses.asdict(speed)})
        return 0
    say(f"prefill             {speed.prefill:8.1f} tokens/s")
    say(f"time to first token {speed.first_token:8.2f} s after {speed.prompt} tokens")
    for count, rate in speed.decode.items():
        say(f"decoding, {count:2} at once {rate:8.1f} tokens/s, {rate / count:.1f} each")
    return 0


def tune(argv: list[str]) -> int:
    """Choose the fastest weight type for a model on this machine."""
    from ...core import tuning
    from ...core.catalog import resolve

    parser = Parser("tune", "Make and measure other weight types of a GGUF model; keep the fastest one for later use.")
    parser.add_argument("model", nargs="?", default="smollm2", help="a name or a .gguf file (default: %(default)s)")
    parser.add_argument(
        "--types", nargs="+", default=list(tuning.CANDIDATES), help="types to try (default: %(default)s)"
    )
    parser.add_argument(
        "--loss",
        default=f"{tuning.LOSS:.0%}",
        metavar="SHARE",
        help="most that perplexity may rise, such as 5%% or 0.05 (default: %(default)s)",
    )
    parser.add_argument("--undo", action="store_true", help="forget the choice and use the file as it is")
    add_json(parser)
    found = parser.parse(argv)
    source = resolve(found.model)
    if found.undo:
        done = tuning.forget(source)
        if found.json:
            as_json({"model": found.model, "undone": done})
        else:
            say(f"{found.model} is used as it is again." if done else f"Nothing was chosen for {found.model}.")
        return 0
    trials, chosen = tuning.tune(source, found.types, loss=_share(found.loss), on_progress=note)
    if found.json:
        as_json({"model": found.model, "chosen": chosen.type, "trials": [dataclasses.asdict(t) for t in trials]})
        return 0
    counts = list(trials[0].decode)
    table(
        ["type", "size", "prefill", *(f"decode {count}" for count in counts), "perplexity"],
        [
            [t.type, size(t.size), f"{t.prefill:.0f}", *(f"{t.decode[c]:.0f}" for c in counts), f"{t.perplexity:.3f}"]
            for t in trials
        ],
    )
    cost = chosen.perplexity / trials[0].perplexity - 1
    say()
    say(f"Chosen: {chosen.type}; perplexity {cost:+.1%}. It is used from now on; `hanpaca tune {found.model} --undo`.")
    return 0


def imatrix(argv: list[str]) -> int:
    """A model's importance matrix, for `quantize --imatrix`."""
    from ...core.catalog import resolve
    from ...core.evaluation import importance

    parser = Parser(
        "imatrix",
        "Measure how much each column of a model's matrices matters, so that quantizing it loses less: "
        "hanpaca quantize FILE OUT.gguf Q4_0 --imatrix IMATRIX.gguf",
    )
    parser.add_argument("model", metavar="FILE", help="a .gguf file, best the one that will be quantized, or a name")
    parser.add_argument("out", type=some_path, metavar="IMATRIX.gguf")
    parser.add_argument(
        "--text",
        type=some_path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="text like what the model is for (default: the manual, in English and Chinese)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=importance.TOKENS,
        metavar="N",
        help="tokens to read of all texts together (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, metavar="N")
    add_json(parser)
    found = parser.parse(argv)
    source = resolve(found.model)
    if source.engine != "llama_cpp" or source.path is None:
        raise BadInput(f"{source.name} is not a GGUF file.", "Convert it first: hanpaca convert.")
    texts = [_text(path) for path in found.text]
    with progress("Measuring") as show:
        out = importance.write_importance(
            source.path,
            found.out,
            texts,
            tokens=found.tokens,
            threads=found.threads,
            on_progress=lambda done, total: show(done, total, ""),
        )
    if found.json:
        as_json({"path": str(out), "size": out.stat().st_size})
    else:
        say(f"{out}: {size(out.stat().st_size)}")
    return 0


def _text(path: Path) -> str:
    from ...core.encodings import decode

    if not path.is_file():
        raise ModelNotFound(f"There is no file {path}.", "Check the path.")
    return decode(path.read_bytes()).text


def _share(text: str) -> float:
    """A share, also as a percentage. Raises `BadInput`."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise BadInput(f"--loss {text!r} is no share.", "Such as 5% or 0.05.") from None
