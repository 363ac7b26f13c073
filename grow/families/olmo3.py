"""OLMo-3: an OLMo-2 most of whose layers see a window of the last tokens only (arXiv 2512.13961)."""

from dataclasses import replace
from typing import Any

from grow.families.olmo2 import OLMO2
from grow.families.settings import Olmo3Settings


def specifics(model: Olmo3Settings) -> dict[str, Any]:
    """Return the stock attributes of an OLMo-3 besides its sizes."""
    own = OLMO2.specifics(model)
    rope = {kind: dict(own["rope_parameters"]) for kind in ("full_attention", "sliding_attention")}
    return {**own, "rope_parameters": rope, "sliding_window": model.sliding_window}


OLMO3 = replace(OLMO2, model_type="olmo3", config_class="Olmo3Config", specifics=specifics)
