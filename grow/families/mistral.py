"""Mistral: a Llama whose layers may see a window of the last tokens only (arXiv 2310.06825)."""

from dataclasses import replace
from typing import Any

from grow.families.llama import LLAMA
from grow.families.settings import MistralSettings


def specifics(model: MistralSettings) -> dict[str, Any]:
    """Return the stock attributes of a Mistral besides its sizes."""
    return {**LLAMA.specifics(model), "sliding_window": model.sliding_window}


MISTRAL = replace(LLAMA, model_type="mistral", config_class="MistralConfig", specifics=specifics)
