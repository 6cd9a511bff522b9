"""What the host takes for a loaded model: the page refuses to generate without one, before any extension is asked.

The class is called LlamaServer because the host decides by that name, and for it imports neither PyTorch nor
transformers. It tokenises and answers by way of the backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...core.engines.base import TokenLogprob
from ...core.errors import UnsupportedFeature
from .prompting import ids_of_parts, ids_of_text, is_marked, parts_of
from .sampling import MOST_LOGPROBS

if TYPE_CHECKING:
    from .backend import Backend


class LlamaServer:
    """The host's view of Hanpaca's model; it is the tokenizer too."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.bos_token = ""
        """The host looks at it to keep a second BOS away; here `encode` does."""
        self.last_prompt_token_count = 0
        self.last_completion_token_count = 0
        self.last_completion_probabilities: list[dict[str, Any]] = []

    @property
    def n_ctx(self) -> int:
        return self._backend.model.context_length

    @property
    def vocabulary_size(self) -> int:
        return self._backend.model.engine.vocabulary.size

    def encode(self, text: str, add_bos_token: bool = False, **_: Any) -> list[int]:
        """Ids of a prompt, as they would be sent; of one that is being made, with its marks."""
        model = self._backend.model
        if is_marked(text):
            return ids_of_parts(model, parts_of(text))
        return ids_of_text(model, text, bos=add_bos_token)

    def decode(self, token_ids: Any, **_: Any) -> str:
        """The text of ids; without the space that the tokenizer itself puts in front of a text."""
        engine = self._backend.model.engine
        ids = [int(token) for token in (token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids)]
        text = b"".join(engine.token_bytes(token) for token in ids).decode("utf-8", "replace")
        own_space = b"".join(map(engine.token_bytes, engine.tokenize("a"))).startswith(b" ")
        return text[1:] if own_space and text.startswith(" ") else text

    def stop(self) -> None:
        """Called by the host when it unloads the model, or ends."""
        self._backend.let_go(self)

    def is_multimodal(self) -> bool:
        return False

    def generate_with_streaming(self, prompt: str, state: dict[str, Any]) -> Iterator[str]:
        """What the host calls where no extension takes the generation over."""
        yield from self._backend.reply(prompt, state, [])

    def generate(self, prompt: str, state: dict[str, Any]) -> str:
        """`generate_with_streaming`, whole."""
        return ["", *self.generate_with_streaming(prompt, state)][-1]

    def get_logits(
        self, prompt: str, state: dict[str, Any], n_probs: int = MOST_LOGPROBS, use_samplers: bool = False
    ) -> list[dict[str, Any]]:
        """The likeliest next tokens, at most twenty, before any sampling setting."""
        if use_samplers:
            raise UnsupportedFeature(
                "Hanpaca tells probabilities before sampling settings are applied.", "Switch use_samplers off."
            )
        model = self._backend.model
        done = self._backend.first_token(ids_of_text(model, prompt), min(n_probs, MOST_LOGPROBS))
        return entries(done)[0]["top_logprobs"][:n_probs]  # type: ignore[no-any-return]

    def get_prompt_logprob_entries(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        """Not told; the host's client then gets those of the answer alone."""
        return []


def entries(found: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities in the form of llama-server, which the host reads."""
    return [
        {
            **_entry(one.token, one.text, one.logprob),
            "top_logprobs": [_entry(token, text, value) for token, text, value in one.top],
        }
        for one in found
    ]


def _entry(token: int, text: bytes, value: float) -> dict[str, Any]:
    # The host computes with what it gets, and JSON has no infinity.
    return {"id": token, "token": text.decode("utf-8", "replace"), "logprob": value if math.isfinite(value) else -1e4}
