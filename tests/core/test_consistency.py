"""Beyond the native window, a token generated with cached keys sees what one prefill of the same tokens would show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from gguf_files import write_gguf

from hanpaca.core.catalog import resolve
from hanpaca.core.engines import open_engine, streams
from hanpaca.core.engines.base import Engine, Request
from hanpaca.core.sampling import Sampling

WINDOW, LENGTH, NEW = 256, 700, 40
GREEDY = Sampling(max_tokens=NEW, temperature=0, repetition_penalty=1.0, logprobs=20, logit_bias={2: -np.inf})


@pytest.fixture(scope="module", params=["llama_cpp", "transformers"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, chinese_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("long")
    if request.param == "llama_cpp":
        return write_gguf(folder / "m.gguf", context=WINDOW, scale=1.0)
    return write_checkpoint(folder / "c", context=WINDOW, tokenizer_model=chinese_model, spread=0.08)


def start(path: Path, extension: str) -> Engine:
    exact = {"kv_type": "f32", "flash_attention": False, "threads": 1} if path.suffix == ".gguf" else {}
    return open_engine(resolve(path), {"context": LENGTH, "extension": extension, **exact})


@pytest.mark.parametrize("extension", ["ntk", "yarn"])
def test_generation_equals_one_prefill(source: Path, extension: str) -> None:
    prompt = [1, *np.random.default_rng(3).integers(3, 290, LENGTH - NEW - 1).tolist()]
    engine = start(source, extension)
    stepwise = streams.complete(engine, [Request(prompt, GREEDY)])[0].logprobs
    engine.close()  # and with it the cache, so that the next engine computes everything anew
    tokens = [entry.token for entry in stepwise]
    assert len(tokens) == NEW
    engine = start(source, extension)
    scores = engine.score(prompt, [tokens])[0]
    reference = max(abs(score) for score in scores)
    assert max(abs(a.logprob - b) for a, b in zip(stepwise, scores, strict=True)) / reference <= 1e-5
    last = Request([*prompt, *tokens[:-1]], GREEDY.replace(max_tokens=1))
    (whole,) = streams.complete(engine, [last])[0].logprobs
    engine.close()
    assert [t[0] for t in whole.top] == [t[0] for t in stepwise[-1].top]
    far = max(abs(a[2] - b[2]) for a, b in zip(whole.top, stepwise[-1].top, strict=True))
    assert far / max(abs(t[2]) for t in whole.top) <= 1e-5


def test_the_base_of_plain_dynamic_scaling_moves_under_cached_keys(tmp_path: Path) -> None:
    """Why a plan is settled per request: transformers' `dynamic` fails the test above by orders of magnitude."""
    import torch
    from transformers import LlamaForCausalLM

    folder = write_checkpoint(
        tmp_path / "c", context=WINDOW, vocabulary=320, spread=0.08, rope={"rope_type": "dynamic", "factor": 2.0}
    )
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokens = torch.tensor([np.random.default_rng(3).integers(3, 290, LENGTH).tolist()])
    with torch.no_grad():
        cache = model(tokens[:, :-NEW], use_cache=True).past_key_values
        for position in range(LENGTH - NEW, LENGTH):
            out = model(tokens[:, position : position + 1], past_key_values=cache, use_cache=True)
        whole = model(tokens).logits[0, -1]
    far = (out.logits[0, -1] - whole).abs().max() / whole.abs().max()
    assert far > 1e-2
