"""What the host is told of a model that is presented: its window, its template, how its control tokens are spelled.

Knows no weights and no generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.chat import Llama2Template
from ...core.errors import UnsupportedFeature
from ...core.model import Model
from . import host
from .template import template_text


@dataclass(frozen=True)
class HostSettings:
    """What presenting a model changes in the host, to be put back."""

    loader: Any
    truncation_length: Any
    instruction_template: Any
    bos_token: str
    eos_token: str

    @classmethod
    def now(cls) -> HostSettings:
        shared = host.shared()
        settings = shared.settings
        return cls(
            shared.args.loader,
            settings.get("truncation_length"),
            settings.get("instruction_template_str"),
            shared.bos_token,
            shared.eos_token,
        )

    def put(self) -> None:
        """Make the host have them."""
        shared = host.shared()
        shared.args.loader = self.loader
        shared.settings["truncation_length"] = self.truncation_length
        shared.settings["instruction_template_str"] = self.instruction_template
        shared.bos_token, shared.eos_token = self.bos_token, self.eos_token


def settings_for(model: Model) -> HostSettings:
    """What the host needs to know of the model: its window, its template, and how its control tokens are spelled."""
    shared = host.shared()
    before = HostSettings.now()
    try:
        return _read_settings(model, before)
    finally:
        shared.bos_token, shared.eos_token = before.bos_token, before.eos_token


def _read_settings(model: Model, before: HostSettings) -> HostSettings:
    shared = host.shared()
    template, bos, eos = before.instruction_template, "<s>", "</s>"
    try:
        own = model.template
    except UnsupportedFeature:  # a base model: there is nothing to chat with
        own = None
    if isinstance(own, Llama2Template):
        template = template_text()
    elif own is not None and model.source.path is not None:
        # As the host reads it for a loader of its own, so that no two ways give two prompts.
        found = host.module("models_settings").get_model_metadata(str(model.source.path))
        template = found.get("instruction_template_str") or template
        bos, eos = shared.bos_token, shared.eos_token
    return HostSettings(host.LLAMA_CPP, model.context_length, template, bos, eos)
