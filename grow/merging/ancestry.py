"""Whether models can be merged at all: one vocabulary, and a common ancestor; and what they cost together."""

from collections.abc import Sequence
from typing import Any

from grow.averaging.model_files import tokenizer_of
from grow.averaging.sources import Source
from grow.common.errors import CheckpointError
from grow.common.provenance import Lineage, digest_json, lineage_of, run_of, spent_on
from grow.data.tokenizer import vocabulary_digest

UNRELATED_COSINE = 0.1
"""Matrices of models without a common ancestor have a cosine of about 0; training alone gives a little."""


def refuse_other_vocabularies(reference: Source, models: Sequence[Source]) -> None:
    """Refuse models whose tokenizers are known to have different vocabularies.

    Raises:
        CheckpointError: naming both models.
    """
    expected = _vocabulary(reference)
    for model in models:
        found = _vocabulary(model)
        if expected is not None and found is not None and expected != found:
            raise CheckpointError(
                f"the vocabularies of {reference.label} and {model.label} differ (digests {expected[:12]} and "
                f"{found[:12]}): a row of the one's embedding stands for another token in the other. Merge models of "
                "one tokenizer."
            )


def _vocabulary(source: Source) -> str | None:
    return None if source.directory is None else vocabulary_digest(tokenizer_of(source.directory))


def is_descendant(model: Source, base_digest: str) -> bool:
    """Return whether a model's run recorded that it began from the base with this digest."""
    run = None if model.directory is None else run_of(model.directory)
    lineage = None if run is None else lineage_of(run)
    return lineage is not None and lineage.digest == base_digest


def refuse_unrelated(reference: Source, models: Sequence[Source], cosines: Sequence[float]) -> None:
    """Refuse models whose matrices have next to nothing in common with the reference's.

    Args:
        reference: The base, or the first model.
        models: Models without a recorded ancestor.
        cosines: Cosine of each one's matrices with the reference's.

    Raises:
        CheckpointError: naming the two and the cosine.
    """
    for model, cosine in zip(models, cosines, strict=True):
        if cosine < UNRELATED_COSINE:
            raise CheckpointError(
                f"{model.label} and {reference.label} show no common ancestor: the cosine of their matrices is "
                f"{cosine:.3f}, expected {UNRELATED_COSINE} or more; no run records one either. A merge of such models "
                "computes nothing useful. Name models tuned from one base, or set merging.unrelated=true."
            )


def merged_lineage(
    base: Source | None, models: Sequence[Source], digests: Sequence[str], descends: Sequence[bool]
) -> Lineage:
    """Return what all ancestors cost together; the base of models that descend from it counts once.

    Args:
        base: The base, if any.
        models: The models.
        digests: Digests of the base, if any, and the models.
        descends: Which models recorded the base as their source.
    """
    spent = [None if source.directory is None else spent_on(source.directory) for source in models]
    origin = None if base is None or base.directory is None else spent_on(base.directory)

    def total(cost: str) -> Any:
        costs: list[Any] = [getattr(each, cost, None) for each in spent]
        before: Any = getattr(origin, cost, 0 if base is None else None)
        if None in (before, *costs):
            return None
        return before + sum(each - before if child else each for each, child in zip(costs, descends, strict=True))

    return Lineage(
        source=" + ".join(source.label for source in ([] if base is None else [base]) + list(models)),
        digest=digest_json(list(digests)),
        tokens=total("tokens"),
        flops=total("flops"),
        seconds=total("seconds"),
    )
