"""From SmolLM2, which speaks English, to a model that learns the Chinese of laws: all by Hanpaca's commands, measured.

    HANPACA_DATA=FOLDER python examples/training/demo.py [WORK]       (or: make train-demo)

Vocabulary, pre-training of all weights, tuning with LoRA, merging, GGUF, Q8_0, a chat in llama.cpp. The last tenth of
the laws and of the English articles is held out: nothing is trained on it; bits per character are measured there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import hanpaca
from hanpaca.core.training.base import Base, load_model, open_base
from hanpaca.core.training.evaluation import foresee, held_out
from hanpaca.core.training.options import FinetuneOptions
from hanpaca.core.weights.unpack import unpack
from hanpaca.core.weights.vocabulary_files import TOKENIZER_FILES
from hanpaca.integrations.cli import main as command

CHARACTERS = 8_000
"""Of each held-out text."""
LAW = re.compile(r"(?m)^(?=中华人民共和国[^\n。]{1,20}法$)")
"""Where a law begins."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*words: str | Path) -> None:
    """One of Hanpaca's commands, shown as it would be typed."""
    line = [str(word) for word in words]
    say(f"\n$ hanpaca {' '.join(line)}")
    start = time.perf_counter()
    if code := command(line):
        raise SystemExit(code)
    say(f"  ({time.perf_counter() - start:.0f} s)")


def split(parts: list[str], train: Path, held: Path) -> None:
    """All but the last tenth of a text's parts, and that tenth without the lines that the others have too."""
    size, cut = sum(map(len, parts)), len(parts)
    while sum(map(len, parts[cut:])) < size / 10:
        cut -= 1
    first, last = ([line for part in some for line in part.splitlines() if line] for some in (parts[:cut], parts[cut:]))
    known = set(first)
    train.write_text("\n\n".join(first), encoding="utf-8")
    held.write_text("\n\n".join(line for line in last if line not in known), encoding="utf-8")


def measure(folder: Path, texts: list[Path]) -> dict[str, dict[str, float]]:
    """Bits per character, perplexity and characters per token of a checkpoint on each text."""
    base: Base = open_base(str(folder), folder)
    options = FinetuneOptions(base=str(folder), data=("-",), out="-", method="full")
    model, tokenizer = load_model(base, options), base.tokenizer
    start = tokenizer.vocabulary.eos or 0
    found = [foresee(model, held_out(str(text), tokenizer, CHARACTERS), start, 512, 2048) for text in texts]
    return {text.stem: vars(figures) for text, figures in zip(texts, found, strict=True)}


def extend(work: Path) -> None:
    """A tokenizer with more merges in its folder, and the checkpoint grown to it."""
    (work / "new").mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        if (work / "smollm2" / name).is_file():
            shutil.copyfile(work / "smollm2" / name, work / "new" / name)
    merges = work / "new" / "tokenizer.json"
    run("vocab", "extend", work / "smollm2" / "tokenizer.json", work / "zh.txt", "--add", "4000", "--out", merges)
    run("vocab", "report", work / "smollm2", work / "new", "--text", work / "zh-held-out.txt")
    if not (work / "grown").exists():
        run("vocab", "grow", work / "smollm2", work / "new", work / "grown")


def training(work: Path, data: Path) -> None:
    shared = ["--threads", "2", "--length", "512", "--accumulate", "1", "--save-every", "8", "--batch", "1024"]
    if not (work / "pretrained" / "done.json").exists():
        run(
            "pretrain", work / "grown", work / "zh.txt", "--mix", f"{work / 'en.txt'}=0.2",
            "--out", work / "pretrained", "--method", "full", "--steps", "72", "--learning-rate", "3e-4", *shared,
        )  # fmt: skip
    if not (work / "adapter" / "done.json").exists():
        run(
            "finetune", work / "pretrained", data / "instruct" / "llamafactory_alpaca_zh_demo.json",
            "--out", work / "adapter", "--also", "--steps", "16", "--learning-rate", "2e-4", *shared,
        )  # fmt: skip
    if not (work / "tuned").exists():
        run("merge", work / "pretrained", work / "adapter", "--out", work / "tuned")


def chat(file: Path) -> list[tuple[str, str]]:
    """What the model answers in llama.cpp."""
    questions = ["什么是合同？", "国务院有哪些职责？", "What is the capital of France?"]
    with hanpaca.load(file) as model:
        return [
            (asked, model.chat([hanpaca.Message("user", asked)], max_tokens=60, temperature=0.2).text)
            for asked in questions
        ]


def main() -> int:
    if not os.environ.get("HANPACA_DATA"):
        say("HANPACA_DATA does not name the data folder: see docs/en/training.md.")
        return 2
    data = Path(os.environ["HANPACA_DATA"])
    work = Path(sys.argv[1] if len(sys.argv) > 1 else ".train-demo")
    work.mkdir(parents=True, exist_ok=True)
    start, used = time.perf_counter(), time.process_time()
    texts = [work / "zh-held-out.txt", work / "en-held-out.txt"]
    laws, articles = (data / "plaintext" / name for name in ("现行法律.txt", "english-wiki_demo.txt"))
    split(LAW.split(laws.read_text(encoding="utf-8")), work / "zh.txt", texts[0])
    split(articles.read_text(encoding="utf-8").splitlines(), work / "en.txt", texts[1])
    if not (work / "smollm2").exists():
        from hanpaca.core.catalog import resolve

        say("Unpacking SmolLM2-135M from its GGUF file")
        source = resolve("smollm2").path
        assert source is not None
        unpack(source, work / "smollm2")
    figures: dict[str, Any] = {"before": measure(work / "smollm2", texts)}
    extend(work)
    figures["grown"] = measure(work / "grown", texts)
    training(work, data)
    figures["pretrained"] = measure(work / "pretrained", texts)
    figures["tuned"] = measure(work / "tuned", texts)
    half, small = work / "tuned.gguf", work / "tuned-Q8_0.gguf"
    run("convert", work / "tuned", half)
    run("quantize", half, small, "Q8_0")
    for asked, answer in chat(small):
        say(f"\n> {asked}\n{answer}")
    report(figures, time.perf_counter() - start, time.process_time() - used)
    return 0


def report(figures: dict[str, Any], seconds: float, used: float) -> None:
    say("\n                 Chinese: bits/character  characters/token    English: perplexity per token")
    for name, found in figures.items():
        zh, en = found["zh-held-out"], found["en-held-out"]
        bits, each, perplexity = zh["bits_per_character"], zh["characters_per_token"], en["perplexity"]
        say(f"{name:<12} {bits:>22.4f} {each:>20.3f} {perplexity:>28.2f}")
    first, last = figures["before"], figures["tuned"]
    ratio = last["en-held-out"]["perplexity"] / first["en-held-out"]["perplexity"]
    say(f"\nEnglish perplexity: {ratio:.3f} of what it was. {seconds / 60:.1f} minutes, {used / 60:.1f} of CPU time.")
    figures |= {"english_ratio": ratio, "minutes": seconds / 60, "cpu_minutes": used / 60}
    print(json.dumps(figures, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
