"""`hanpaca vocab`: train pieces, merge or extend a tokenizer, grow a checkpoint to it, report how it fits a text."""

from __future__ import annotations

from .arguments import Parser, add_json, some_path
from .output import as_json, note, say, table

_ABOUT = {
    "train": "train a sentencepiece model on text files",
    "merge": "add its pieces to a model's own tokenizer.model",
    "extend": "learn merges for a byte-level tokenizer.json from text files",
    "grow": "give a checkpoint rows for its new tokens",
    "report": "characters per token on your text, for one tokenizer or several",
}


def run(argv: list[str]) -> int:
    """One of the five steps; the first word names it."""
    steps = {"train": _train, "merge": _merge, "extend": _extend, "grow": _grow, "report": _report}
    if argv and argv[0] in steps:
        return steps[argv[0]](argv[1:])
    about = "; ".join(f"{name}: {line}" for name, line in _ABOUT.items())
    parser = Parser("vocab", f"Extend a model's vocabulary, in steps. {about}.")
    parser.add_argument("step", metavar="STEP", choices=steps, help=f"{', '.join(steps)}; each takes --help and --json")
    parser.parse(argv)
    return 0


def _train(argv: list[str]) -> int:
    from ...core.vocabulary.corpus import lines, text_files
    from ...core.vocabulary.pieces import train_pieces

    parser = _parser("train")
    parser.add_argument(
        "texts", type=some_path, nargs="+", metavar="TEXT", help="text files, or folders of .txt and .jsonl"
    )
    parser.add_argument("--out", type=some_path, required=True, metavar="FILE", help="the sentencepiece model to write")
    parser.add_argument("--size", type=int, default=20_000, metavar="N", help="pieces; default: %(default)s")
    parser.add_argument("--coverage", type=float, default=0.9995, help="share of characters; default: %(default)s")
    found = parser.parse(argv)
    out = train_pieces(lines(text_files(found.texts)), found.out, found.size, coverage=found.coverage)
    return _done(found.json, {"path": str(out), "pieces": found.size}, f"{out}: {found.size:,} pieces")


def _merge(argv: list[str]) -> int:
    from ...core.vocabulary.pieces import merge_pieces

    parser = _parser("merge")
    parser.add_argument("base", type=some_path, metavar="BASE.model", help="the model's own tokenizer.model")
    parser.add_argument("new", type=some_path, metavar="NEW.model", help="the pieces to add")
    parser.add_argument("out", type=some_path, metavar="OUT.model")
    parser.add_argument(
        "--size", type=int, metavar="N", help="pieces in all, for example 55296; default: every new one"
    )
    parser.add_argument("--pad", action="store_true", help="add <pad> first, as Chinese-LLaMA-2 does")
    parser.add_argument("--chinese-only", action="store_true", help="leave out pieces that would be unused")
    found = parser.parse(argv)
    made = merge_pieces(
        found.base, found.new, found.out, pad=found.pad, size=found.size, chinese_only=found.chinese_only
    )
    figures = {"path": str(found.out), "pieces": made.size, "base": made.base, "added": made.added}
    text = f"{found.out}: {made.size:,} pieces, {made.base:,} of the base and {made.added:,} added"
    return _done(found.json, figures, text)


def _extend(argv: list[str]) -> int:
    from ...core.vocabulary.byte_level import extend_merges
    from ...core.vocabulary.corpus import lines, text_files

    parser = _parser("extend")
    parser.add_argument("base", type=some_path, metavar="tokenizer.json", help="the model's own")
    parser.add_argument(
        "texts", type=some_path, nargs="+", metavar="TEXT", help="text files, or folders of .txt and .jsonl"
    )
    parser.add_argument("--out", type=some_path, required=True, metavar="FILE", help="the tokenizer.json to write")
    parser.add_argument("--add", type=int, default=6000, metavar="N", help="new tokens; default: %(default)s")
    found = parser.parse(argv)
    added = extend_merges(found.base, lines(text_files(found.texts)), found.out, found.add)
    if added < found.add:
        note(f"The texts gave {added:,} tokens, not {found.add:,}.")
    return _done(found.json, {"path": str(found.out), "added": added}, f"{found.out}: {added:,} tokens added")


def _grow(argv: list[str]) -> int:
    from ...core.vocabulary.grow import grow

    parser = _parser("grow")
    parser.add_argument("checkpoint", type=some_path, metavar="FOLDER", help="a checkpoint with its own tokenizer")
    parser.add_argument(
        "tokenizer", type=some_path, metavar="TOKENIZER", help="a folder with the new tokenizer's files"
    )
    parser.add_argument("out", type=some_path, metavar="OUT", help="the folder to write")
    parser.add_argument("--multiple", type=int, default=64, metavar="N", help="round rows up; default: %(default)s")
    parser.add_argument("--start", choices=["mean", "random"], default="mean", help="new rows; default: %(default)s")
    found = parser.parse(argv)
    made = grow(found.checkpoint, found.tokenizer, found.out, multiple=found.multiple, start=found.start)
    figures = {"path": str(found.out), "before": made.before, "tokens": made.tokens, "rows": made.rows}
    return _done(found.json, figures, f"{found.out}: {made.before:,} rows before, {made.rows:,} now")


def _report(argv: list[str]) -> int:
    from ...core.vocabulary.corpus import lines, text_files
    from ...core.vocabulary.report import measure

    parser = _parser("report")
    parser.add_argument("tokenizers", type=some_path, nargs="+", metavar="TOKENIZER", help=".model, .json, or a folder")
    parser.add_argument("--text", type=some_path, required=True, metavar="PATH", help="a text file, or a folder")
    found = parser.parse(argv)
    files = text_files([found.text])
    fits = [(str(path), measure(path, lines(files))) for path in found.tokenizers]
    rows = [
        {"tokenizer": name, "tokens": fit.tokens, "characters_per_token": round(fit.characters_per_token, 4)}
        | {"fragment_share": round(fit.fragment_share, 4)}
        for name, fit in fits
    ]
    if found.json:
        as_json({"tokenizers": rows})
        return 0
    heads = ["tokenizer", "tokens", "characters per token", "parts of characters"]
    shown = [
        [name, f"{f.tokens:,}", f"{f.characters_per_token:.3f}", f"{100 * f.fragment_share:.1f} %"] for name, f in fits
    ]
    table(heads, shown)
    return 0


def _parser(step: str) -> Parser:
    parser = Parser(f"vocab {step}", f"{_ABOUT[step].capitalize()}.")
    add_json(parser)
    return parser


def _done(json: bool, figures: dict[str, object], text: str) -> int:
    if json:
        as_json(figures)
    else:
        say(text)
    return 0
