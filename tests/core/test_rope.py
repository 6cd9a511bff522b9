"""Rotary frequencies against independent computations, transformers' own, and llama.cpp's logits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from gguf_files import write_gguf

from hanpaca.core.errors import BadInput, UnsupportedFeature
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.rope import Rope, RopePlan, context_sizes, plan

PLAIN = Rope()
PI16K = Rope(scaling="linear", factor=4.0)
YARN64K = Rope(scaling="yarn", factor=16.0)
SMOL = Rope(base=100_000.0, dim=64, trained=8192, original=8192)
LLAMA3 = Rope(base=500_000.0, trained=131_072, scaling="llama3", factor=8.0, original=8192)
ODD_YARN = Rope(scaling="yarn", factor=16.0, beta_fast=16.0, beta_slow=2.0, attention=0.9)


def transformers_frequencies(plan: RopePlan) -> tuple[np.ndarray, float]:
    """inv_freq as the installed transformers computes it from our rendering."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=plan.rope.dim * 2,
        num_attention_heads=2,
        max_position_embeddings=plan.context,
        rope_parameters=plan.transformers(),
    )
    rotary = LlamaRotaryEmbedding(config)
    return rotary.inv_freq.double().numpy(), float(rotary.attention_scaling)


def test_native_windows() -> None:
    assert [r.native_context for r in (PLAIN, PI16K, YARN64K, SMOL, LLAMA3)] == [4096, 16_384, 65_536, 8192, 131_072]


@pytest.mark.parametrize("rope", [PLAIN, PI16K, YARN64K, SMOL, LLAMA3])
def test_inside_the_native_window_nothing_changes(rope: Rope) -> None:
    for context in (1, rope.native_context):
        found = plan(rope, context)
        assert (found.base, found.alpha, found.is_native) == (rope.base, 1.0, True)
    if rope.scaling != "llama3":
        assert not plan(rope, rope.native_context + 1).is_native


@pytest.mark.parametrize("rope", [LLAMA3, Rope(scaling="file")])
def test_frequencies_from_a_table_are_not_extended(rope: Rope) -> None:
    """llama.cpp divides the moved base by the table of the old one; transformers would compute another table."""
    with pytest.raises(UnsupportedFeature, match=f"at most {rope.native_context:,}"):
        plan(rope, rope.native_context + 1)


def test_a_table_that_no_other_format_has_is_run_by_llama_cpp_alone() -> None:
    found = plan(Rope(scaling="file"), 4096)
    assert found.llama_cpp() == {"rope_freq_base": 10_000.0}
    for render in (found.inv_freq, found.transformers, found.vllm):
        with pytest.raises(UnsupportedFeature, match=r"Run it with llama\.cpp"):
            render()


def test_the_published_formula() -> None:
    """alpha = L / (T / 2) - 1 and base' = base · alpha^(dim / (dim - 2)), here by logarithms."""
    found = plan(PLAIN, 12_288)
    assert found.alpha == 5.0
    assert found.base == pytest.approx(math.exp(math.log(1e4) + 128 / 126 * math.log(5.0)), rel=1e-12)
    assert plan(PLAIN, 18_432).alpha == 8.0
    assert plan(PI16K, 24_576).alpha == 2.0
    assert plan(PLAIN, 12_288, alpha=3).base == pytest.approx(1e4 * 3 ** (128 / 126))


@pytest.mark.parametrize("context", [4097, 6000, 12_288, 18_432])
def test_frequencies_equal_transformers_dynamic_ntk(context: int) -> None:
    """transformers' `dynamic` with factor 2 is the same formula; there the base moves with each length."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0},
    )
    reference, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=context)
    np.testing.assert_allclose(plan(PLAIN, context).inv_freq(), reference.double().numpy(), rtol=1e-6)


@pytest.mark.parametrize("rope", [PLAIN, PI16K, YARN64K, ODD_YARN, SMOL, LLAMA3])
@pytest.mark.parametrize("windows", [0.5, 1, 1.5, 3, 4.5])
def test_frequencies_equal_transformers(rope: Rope, windows: float) -> None:
    if rope is LLAMA3 and windows > 1:
        return  # refused, see above
    found = plan(rope, int(rope.native_context * windows))
    reference, magnitude = transformers_frequencies(found)
    np.testing.assert_allclose(found.inv_freq(), reference, rtol=1e-6)
    assert magnitude == pytest.approx(found.magnitude)


def test_frequencies_by_hand() -> None:
    """Independent of the code: written out from the definitions for a pair each."""
    native = plan(PLAIN, 4096).inv_freq()
    assert len(native) == 64
    assert native[0] == 1.0
    assert native[32] == pytest.approx(0.01)
    assert plan(PI16K, 16_384).inv_freq()[32] == pytest.approx(0.0025)
    assert plan(PLAIN, 12_288).inv_freq()[63] == pytest.approx(1e4 ** (-126 / 128) / 5)  # the slowest pair: 1/alpha
    yarn = plan(YARN64K, 65_536).inv_freq()
    assert yarn[0] == 1.0
    assert yarn[63] == pytest.approx(1e4 ** (-126 / 128) / 16)
    # the ramp goes from pair 20 (turns 32 times in 4,096 positions) to pair 46 (turns once)
    assert yarn[33] == pytest.approx(1e4 ** (-66 / 128) * (0.5 + 0.5 / 16))


def test_rendering_for_transformers() -> None:
    assert plan(PLAIN, 4096).transformers() == {"rope_type": "default", "rope_theta": 10_000.0}
    assert plan(PI16K, 4096).transformers() == {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
    yarn = plan(YARN64K, 4096).transformers()
    assert (yarn["rope_type"], yarn["factor"], yarn["original_max_position_embeddings"]) == ("yarn", 16.0, 4096)


def test_rendering_for_llama_cpp_names_real_fields() -> None:
    import llama_cpp

    for rope in (PLAIN, PI16K, YARN64K, SMOL):
        params = llama_cpp.llama_context_default_params()
        for name, value in plan(rope, 20_000).llama_cpp().items():
            assert hasattr(params, name)
            setattr(params, name, value)
    assert plan(PI16K, 4096).llama_cpp() == {
        "rope_freq_base": 10_000.0,
        "rope_scaling_type": llama_cpp.LLAMA_ROPE_SCALING_TYPE_LINEAR,
        "rope_freq_scale": 0.25,
    }
    assert plan(PLAIN, 4096).llama_cpp()["rope_scaling_type"] == llama_cpp.LLAMA_ROPE_SCALING_TYPE_NONE
    assert plan(YARN64K, 4096).llama_cpp()["rope_scaling_type"] == llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN
    assert set(plan(LLAMA3, 4096).llama_cpp()) == {"rope_freq_base"}


def test_rendering_for_servers() -> None:
    found = plan(PLAIN, 12_288)
    flags = found.vllm()
    assert flags[:3] == ["--max-model-len", "12288", "--hf-overrides"]
    assert json.loads(flags[3])["rope_parameters"]["rope_theta"] == found.base
    assert found.llama_server()[:2] == ["--ctx-size", "12288"]
    assert float(found.llama_server()[3]) == pytest.approx(found.base, rel=1e-8)
    assert "yarn" in plan(YARN64K, 4096).llama_server()


def test_sizes_that_requests_are_rounded_up_to() -> None:
    assert context_sizes(PLAIN, 2048) == (2048,)
    assert context_sizes(PLAIN, 12_288) == (4096, 12_288)
    assert context_sizes(PLAIN, 18_432) == (4096, 12_288, 18_432)


def test_yarn_on_the_fly() -> None:
    found = plan(PLAIN, 18_432, extension="yarn")
    assert (found.base, found.alpha, found.is_native, found.rope.factor) == (PLAIN.base, 1.0, False, 4.5)
    assert found.inv_freq() == plan(Rope(scaling="yarn", factor=4.5), 18_432).inv_freq()
    assert plan(PLAIN, 4096, extension="yarn") == plan(PLAIN, 4096)
    further = plan(YARN64K, 131_072, extension="yarn").rope
    assert (further.factor, further.original) == (32.0, 4096)
    with pytest.raises(UnsupportedFeature, match="position interpolation"):
        plan(PI16K, 24_576, extension="yarn")
    with pytest.raises(BadInput, match="no alpha"):
        plan(PLAIN, 12_288, 4.0, "yarn")
    with pytest.raises(BadInput, match="Valid: auto, ntk, yarn"):
        plan(PLAIN, 12_288, extension="linear")  # type: ignore[arg-type]


def test_what_suits_a_model() -> None:
    """Adaptive NTK where it was published or nothing else goes, YaRN for others; a number for alpha asks for NTK."""
    other = Rope(beyond="yarn")
    assert [plan(rope, 18_432).extension for rope in (PLAIN, other)] == ["ntk", "yarn"]
    assert plan(other, 18_432) == plan(other, 18_432, extension="yarn")
    assert plan(other, 18_432, 3.0) == plan(PLAIN, 18_432, 3.0)
    assert plan(other, 18_432, extension="ntk") == plan(PLAIN, 18_432)
    assert plan(Rope(scaling="linear", factor=4.0, beyond="yarn"), 24_576).extension == "ntk"
    assert plan(other, 4096) == plan(PLAIN, 4096), "inside the window there is no difference"
    with pytest.raises(BadInput, match="no rotary embedding"):
        Rope(beyond="pi")  # type: ignore[arg-type]


def test_the_family_is_told_by_its_pieces(tmp_path: Path, chinese_gguf: Path) -> None:
    from hanpaca.core.catalog import entries
    from hanpaca.core.weights.llama import read_rope

    assert rope_of(read(chinese_gguf)).beyond == "ntk"
    assert rope_of(read(write_gguf(tmp_path / "m.gguf"))).beyond == "yarn"
    assert {e.rope.beyond for e in entries() if e.vocabulary == 55_296} == {"ntk"}
    assert {e.rope.beyond for e in entries() if e.vocabulary != 55_296} == {"yarn"}
    config = {"model_type": "llama", "vocab_size": 32_000, "num_attention_heads": 2, "hidden_size": 64}
    config |= {"num_hidden_layers": 1, "intermediate_size": 64}
    assert read_rope(config).beyond == "yarn"
    assert read_rope(config | {"vocab_size": 55_296}).beyond == "ntk"
    assert read_rope(config | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}).beyond == "ntk"


def test_plans_are_keys() -> None:
    assert len({plan(PLAIN, 12_288), plan(Rope(), 12_288), plan(PI16K, 12_288)}) == 2


@pytest.mark.parametrize("context", [0, -1, 4096.0, True, "4096"])
def test_a_context_is_a_number_of_positions(context) -> None:
    with pytest.raises(BadInput, match="A context is"):
        plan(PLAIN, context)


@pytest.mark.parametrize("alpha", [0.5, -1, "much", True, math.inf])
def test_alpha_is_at_least_one(alpha) -> None:
    with pytest.raises(BadInput, match="alpha is"):
        plan(PLAIN, 12_288, alpha)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": 0},
        {"dim": 3},
        {"factor": 0.5},
        {"trained": 0},
        {"base": math.nan},
        {"attention": 0.0},
        {"beta_slow": 40},
    ],
)
def test_a_rope_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="no rotary embedding"):
        Rope(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="Known: none, linear, yarn, llama3, file"):
        Rope(scaling="longrope")  # type: ignore[arg-type]
