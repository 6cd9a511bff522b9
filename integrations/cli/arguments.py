"""The parser all commands use, and the options that several share.

Knows no command. A wrong option is refused with the near and the valid ones; nothing is abbreviated silently.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ...core.errors import BadInput


class Parser(argparse.ArgumentParser):
    """argparse that raises `BadInput` instead of printing and leaving."""

    def __init__(self, command: str, about: str) -> None:
        super().__init__(prog=f"hanpaca {command}", description=about, allow_abbrev=False)
        self._command = command

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{self._command}: {message}.", f"`{self.prog} --help` shows how it is used.")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        return super()._get_values(action, [word.removeprefix(_SHIELD) for word in arg_strings])

    def options(self) -> list[str]:
        """The long form of every option."""
        return sorted({text for action in self._actions for text in action.option_strings if text.startswith("--")})

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse `argv`. `--help` prints and leaves with code 0, as argparse does; what follows `--` is no option."""
        end = list(argv).index("--") if "--" in argv else len(argv)
        if {"-h", "--help"} & set(argv[:end]):  # before intermixed parsing, which hides the defaults that help shows
            self.print_help()
            self.exit()
        # Intermixed parsing knows no "--": names that begin with a dash are shielded from it.
        words = [*argv[:end], *(_SHIELD + word for word in argv[end + 1 :])]
        found, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            wrong = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(wrong, self.options(), n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise BadInput(
                f"{self._command}: {wrong!r} is not understood.{guess}", f"Options: {', '.join(self.options())}."
            )
        return found


_SHIELD = "\0"
"""Before a word that is no option; no argument of a process can hold it."""
MOST_PASSAGES = 1_000
"""What `-k` and `--neighbours` may ask for; nobody reads more, and SQLite's whole numbers end somewhere."""


SAMPLING_OPTIONS = ("max_tokens", "temperature", "seed")
"""What `add_sampling` adds, by the names in a namespace."""


def passage_count(text: str) -> int:
    """The type of an option that counts passages; what is too few, the search says."""
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if count > MOST_PASSAGES:
        raise argparse.ArgumentTypeError(f"{MOST_PASSAGES:,} passages are the most, not {text}")
    return count


def some_path(text: str) -> Path:
    """The type of an option that names a file or a folder: "", such as a variable of the shell that is not set, would
    be the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("a path is empty")
    return Path(text)


def add_json(parser: Parser) -> None:
    """`--json`: one JSON object on stdout instead of text."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def add_library(parser: Parser, default: str = "default") -> None:
    """`--library`: which library to use."""
    parser.add_argument(
        "--library",
        default=default,
        metavar="NAME|PATH",
        help="a library's name, or a folder (anything with a slash); default: %(default)s",
    )


def add_model(parser: Parser, bundled: str = "smollm2", extra: str = "") -> None:
    """`--model`, `--context`, `--kv-type`, `--threads`, `--prompt-lookup`: which model answers, and how.

    `extra` is added to the help of `--model`.
    """
    parser.add_argument(
        "--model",
        metavar="NAME|FILE",
        help="a name from `hanpaca models`, or a .gguf file; default: $HANPACA_MODEL, else a chat model you pulled, "
        f"else {bundled}{extra}",
    )
    parser.add_argument("--context", type=int, metavar="TOKENS", help="longest prompt and answer; default: the model's")
    parser.add_argument(
        "--kv-type",
        choices=["f16", "q8_0", "q4_0"],
        help="keys and values in memory: smaller ones leave room for more context; default: f16",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: one for each core")
    parser.add_argument(
        "--prompt-lookup",
        type=int,
        metavar="N",
        help="tokens to guess ahead from what was read and written, such as 3: faster with BF16, F16 or Q4_0 weights; "
        "default: 0",
    )


def add_abstain(parser: Parser) -> None:
    """`--no-abstain`: `abstain` is False with it."""
    parser.add_argument(
        "--no-abstain",
        dest="abstain",
        action="store_false",
        help="answer from the nearest passages also where the documents do not seem to hold the answer",
    )


def add_sampling(parser: Parser) -> None:
    """`--max-tokens`, `--temperature`, `--seed`: how the model chooses its words."""
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer in tokens")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest word; default: 0.2")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")


def sampling_of(found: argparse.Namespace) -> dict[str, int | float]:
    """The sampling settings that were given, by name."""
    named = {name: getattr(found, name) for name in SAMPLING_OPTIONS}
    return {name: value for name, value in named.items() if value is not None}
