"""The host's sampling settings as Hanpaca's. Knows no model.

What has no counterpart is named, not dropped in silence: the backend tells it where it is set to something.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...core.engines.base import Vocabulary
from ...core.errors import BadInput
from ...core.sampling import Sampling

NEUTRAL: Mapping[str, Any] = {
    "dynamic_temperature": False, "smoothing_factor": 0, "top_n_sigma": 0, "xtc_probability": 0, "epsilon_cutoff": 0,
    "eta_cutoff": 0, "tfs": 1, "top_a": 0, "adaptive_target": 0, "dry_multiplier": 0, "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": 0, "penalty_alpha": 0, "guidance_scale": 1,
}  # fmt: skip
"""Settings that this backend does not have, each with the value at which it does nothing."""
SAME = ("top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
ORDER = ("top_k", "typical_p", "top_p", "min_p", "temperature")
"""In which this backend applies those whose order matters, each off at its value in `OFF`."""
OFF: Mapping[str, Any] = {"top_k": 0, "typical_p": 1, "top_p": 1, "min_p": 0, "temperature": 1}
MOST_SEED = 2**32 - 2
MOST_LOGPROBS = 20


def sampling_of(
    state: Mapping[str, Any], *, max_tokens: int, stop: Sequence[str], vocabulary: Vocabulary
) -> tuple[Sampling, list[str]]:
    """The settings of one generation, and those (`name=value`) that cannot be followed. Raises `BadInput`."""
    greedy = not state.get("do_sample", True)
    settings: dict[str, Any] = {name: state[name] for name in SAME if state.get(name) is not None}
    if "top_k" in settings:
        settings["top_k"] = max(0, int(settings["top_k"]))
    settings["temperature"] = state.get("temperature", 1)
    settings |= {name: OFF[name] for name in _left_out(state)}
    settings |= {
        "max_tokens": max_tokens,
        "temperature": 0 if greedy else settings["temperature"],
        "penalty_last_n": int(state.get("repetition_penalty_range", 1024)),
        "mirostat": int(state.get("mirostat_mode", 0)),
        "mirostat_tau": state.get("mirostat_tau", 5),
        "mirostat_eta": state.get("mirostat_eta", 0.1),
        "seed": seed_of(state.get("seed", -1)),
        "stop": tuple(dict.fromkeys(text for text in stop if text)),
        "logit_bias": _bias(state, vocabulary),
        "grammar": (state.get("grammar_string") or "").strip() or None,
    }
    if state.get("logprobs"):
        settings["logprobs"] = min(int(state["logprobs"]), MOST_LOGPROBS)
    return Sampling().replace(**settings), ignored(state)


def seed_of(seed: Any) -> int | None:
    """The host's -1 draws one."""
    number = int(seed)
    return None if number < 0 else number % (MOST_SEED + 1)


def ignored(state: Mapping[str, Any]) -> list[str]:
    """Settings with an effect that this backend does not have."""
    found = [f"{name}={state[name]}" for name, value in NEUTRAL.items() if state.get(name, value) != value]
    if (state.get("negative_prompt") or "") and state.get("guidance_scale", 1) != 1:
        found.append("negative_prompt")
    return [*found, *_other_order(state)]


def _priority(state: Mapping[str, Any]) -> list[str]:
    """The host's samplers in its order; none where it leaves the order to the engine."""
    given = state.get("sampler_priority") or []
    names = [name.strip() for name in (given.split("\n") if isinstance(given, str) else given)]
    if state.get("temperature_last") and "temperature" in names:
        names.append(names.pop(names.index("temperature")))
    return names


def _left_out(state: Mapping[str, Any]) -> list[str]:
    """Samplers that the host's order does not name, and so does not use."""
    names = _priority(state)
    return [name for name in ORDER if names and name not in names]


def _other_order(state: Mapping[str, Any]) -> list[str]:
    """The host's order, where it has another effect than ours."""
    if not state.get("do_sample", True) or state.get("temperature") == 0 or int(state.get("mirostat_mode", 0)):
        return []
    names = _priority(state)
    acting = [name for name in ORDER if name in names and state.get(name, OFF[name]) not in (OFF[name], None)]
    wanted = [name for name in names if name in acting]
    return [] if wanted == acting else [f"sampler_priority ({', '.join(wanted)}; here {', '.join(acting)})"]


def stop_strings(*given: Any) -> list[str]:
    """All texts to stop at. The host gives lists, None, or a text such as `"\\n", "You:"` that is one in Python."""
    found: list[str] = []
    for texts in given:
        if isinstance(texts, str) and texts.strip():
            texts = _listed(texts)
        if isinstance(texts, Iterable) and not isinstance(texts, str):
            found += [text for text in texts if isinstance(text, str) and text]
    return list(dict.fromkeys(found))


def _listed(texts: str) -> list[Any]:
    try:
        found = ast.literal_eval(f"[{texts}]")
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadInput(
            f"The custom stopping strings cannot be read: {texts}",
            'Write each in double quotes, with commas between: "\\n", "You:".',
        ) from error
    return list(found)


def _ids(texts: str) -> list[int]:
    try:
        return [int(token) for token in texts.split(",") if token.strip()]
    except ValueError as error:
        raise BadInput(
            f"The token bans cannot be read: {texts}", "Write the numbers of tokens with commas between: 13, 29871."
        ) from error


def _bias(state: Mapping[str, Any], vocabulary: Vocabulary) -> dict[int, float]:
    """Biases of the API's clients, and tokens that may not come."""
    try:
        bias = {int(token): float(value) for token, value in (state.get("logit_bias") or {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput("logit_bias maps token ids to numbers.", 'Such as {"13": -1.5}.') from error
    banned = _ids(str(state.get("custom_token_bans") or ""))
    if state.get("ban_eos_token"):
        banned += list(vocabulary.ends)
    return bias | dict.fromkeys(banned, -math.inf)
