"""Commands that train: `pretrain`, `finetune`, `prefer`. Their options are the fields of `core.training.options`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .arguments import Parser, add_json, some_path
from .output import as_json, note, say

if TYPE_CHECKING:
    from ...core.training.documented import Field
    from ...core.training.options import Options
    from ...core.training.records import Reports

_ABOUT = {
    "pretrain": "Train a model further on plain text (.txt and .jsonl in any encoding).",
    "finetune": "Tune a model on instructions (.json and .jsonl: Alpaca, ShareGPT or messages).",
    "prefer": "Align a model with pairs of a better and a worse answer (DPO).",
}
_DATA = {
    "pretrain": "text files, or folders of .txt and .jsonl",
    "finetune": "files of conversations, or folders of .json and .jsonl",
    "prefer": "files of pairs, or folders of .json and .jsonl",
}


def pretrain(argv: list[str]) -> int:
    """Continued pre-training."""
    return _command("pretrain", argv)


def finetune(argv: list[str]) -> int:
    """Instruction tuning."""
    return _command("finetune", argv)


def prefer(argv: list[str]) -> int:
    """Preference optimisation."""
    return _command("prefer", argv)


def _command(kind: str, argv: list[str]) -> int:
    parser = _parser(kind)
    found = parser.parse(argv)
    if found.preview is not None:
        if found.preview < 1:
            parser.error("--preview shows at least 1 example")
        if found.plan or found.json:
            parser.error("--preview goes with neither --plan nor --json")
    options = _options(kind, found, parser)
    if found.preview is not None:
        from .preview import preview

        return preview(options, found.preview)
    if found.plan:
        from .preview import plan

        return plan(options, found.json)
    return _train(options, found.json)


def _parser(kind: str) -> Parser:
    from ...core.training.documented import documented
    from ...core.training.options import KINDS

    parser = Parser(kind, _ABOUT[kind] + " A stopped run goes on when the same command is given again.")
    parser.add_argument("base", nargs="?", metavar="BASE", help="a checkpoint folder, a GGUF file, or a model's name")
    parser.add_argument("data", nargs="*", metavar="DATA", help=_DATA[kind])
    options: Any = KINDS[kind]
    for field in documented(options):
        if field.name not in ("base", "data"):
            _add(parser, field)
    parser.add_argument(
        "--run", type=some_path, metavar="RUN.json", help="take the options of an earlier run from its file"
    )
    parser.add_argument("--preview", type=int, metavar="N", help="show N examples with what is trained on, and leave")
    parser.add_argument("--plan", action="store_true", help="show memory, tokens, steps and time, and leave")
    add_json(parser)
    return parser


def _add(parser: Parser, field: Field) -> None:
    """An option for a field. What is not given stays None, so that a run's file can fill it."""
    name = f"--{field.name.replace('_', '-')}"
    default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
    text = field.text.replace("%", "%%").rstrip(".")
    shown = "" if field.required or default is None or default == "" else f"; default: {default}"
    if field.kind == "bool":
        if field.default:
            parser.add_argument(
                f"--no-{name[2:]}", dest=field.name, action="store_false", default=None, help=f"do not: {text}"
            )
        else:
            parser.add_argument(name, action="store_true", default=None, help=text)
    elif field.kind.startswith("tuple"):
        parser.add_argument(name, nargs="*", metavar="…", help=f"{text}{shown}")
    else:
        base = field.kind.split(" | ")[0]
        make: Any = {"int": int, "float": float}.get(base, str)
        metavar = {"int": "N", "float": "X"}.get(base, "FOLDER" if field.name == "out" else "WORD")
        parser.add_argument(name, type=make, metavar=metavar, help=f"{text}{shown}")


def _options(kind: str, found: Any, parser: Parser) -> Options:
    from ...core.training.options import LORA

    given = _given(kind, found)
    options = _made(kind, found, given, parser)
    if options.method == "full" and (idle := [f"--{name}" for name in LORA if name in given]):
        parser.error(f"{', '.join(idle)}: only for LoRA, and --method full trains every weight")
    return options


def _given(kind: str, found: Any) -> dict[str, Any]:
    """The fields that the command line names."""
    from ...core.training.documented import documented
    from ...core.training.options import KINDS

    chosen: Any = KINDS[kind]
    names = [field.name for field in documented(chosen)]
    given = {name: getattr(found, name) for name in names if getattr(found, name) not in (None, [])}
    for name in ("targets", "also", "eval", "mix"):  # an empty list there is a choice
        if getattr(found, name, None) == []:
            given[name] = []
    return given


def _made(kind: str, found: Any, given: dict[str, Any], parser: Parser) -> Options:
    from ...core.training.options import KINDS, from_json, make

    if found.run:
        options = from_json(found.run, **given)
        if options.kind != kind:
            parser.error(f"{found.run} is a run of `hanpaca {options.kind}`")
        return options
    if "base" not in given or "data" not in given:
        parser.error("BASE and DATA are needed, or --run")
    if "out" not in given:
        parser.error("--out is needed: the folder of the run")
    return make(KINDS[kind], given)


def _train(options: Options, json: bool) -> int:
    from ...core.training.heap import keep_freed_memory
    from ...core.training.run import train

    keep_freed_memory()  # the process ends with the run
    with _reports(quiet=json) as reports:
        result = train(options, note, reports)
    figures = {"path": str(result.path), "steps": result.steps, "loss": result.loss}
    figures |= {"before": result.before, "after": result.held_out}
    if json:
        as_json(figures)
        return 0
    say(f"{result.path}: {result.steps:,} steps, last loss {result.loss:.4f}")
    for name, after in result.held_out.items():
        before = result.before[name]
        say(
            f"{name}: {before['bits_per_character']:.4f} → {after['bits_per_character']:.4f} bits per character, "
            f"perplexity {before['perplexity']:.2f} → {after['perplexity']:.2f} per token"
        )
    return 0


@contextmanager
def _reports(*, quiet: bool) -> Iterator[Reports]:
    """A bar on a terminal; elsewhere a line now and then: at the start, and each time a twentieth is done."""
    import sys

    if not sys.stderr.isatty():
        shown = -1

        def line(entry: dict[str, Any]) -> None:
            nonlocal shown
            part = entry["step"] * 20 // max(1, entry["steps"])
            if "held_out" in entry:
                for name, figures in entry["held_out"].items():
                    note(f"step {entry['step']}: {name} {figures['bits_per_character']:.4f} bits per character")
            elif part > shown or entry["step"] <= 3:
                shown = part
                note(_text(entry))

        yield line
        return
    from .output import progress

    with progress("Training") as show:
        yield lambda entry: show(entry["step"], entry["steps"], _text(entry) if "loss" in entry else "evaluating")


def _text(entry: dict[str, Any]) -> str:
    speed = entry["tokens"] / max(entry["seconds"], 1e-9)
    left = (entry["steps"] - entry["step"]) * entry["seconds"] / max(1, entry["taken"])
    hours, minutes = divmod(round(left / 60), 60)
    return (
        f"step {entry['step']}/{entry['steps']}, loss {entry['loss']:.4f}, {speed:,.0f} tokens/s, "
        f"about {hours} h {minutes:02} min left"
    )
