"""Growth in depth: which source layer each target layer starts from, and which of them start as the identity.

    stack        a b c    ->  a b c a b c a      again from the bottom             (StackBERT, G_stack: M o M o ... o M)
    top          a b c    ->  a b c a b c c      whole copies, the rest from the top     (bert2BERT; MSLT adds its top)
    interpose    a b c    ->  a a b b c c        each layer repeated in place            (W'_l = W_floor(l L / L'))
    overlap      a b c d  ->  a b c b c d        two copies less the seam                (SOLAR: 2 (L - m) layers)

    new_layers=identity   a b  ->  a (a) b (b)   where (a) is a copy of a that adds nothing yet:
                          x + o_proj(...) + down_proj(...) = x     with o_proj = down_proj = 0
    interpose, identity   a b c d  ->  a b c d (d)   the last of each group is the one that is copied        (LLaMA-Pro)

A repeated layer changes the function, so these rules do not preserve it and the plan says so, except where every
repeated layer starts as the identity. Only the last projection of a branch is zero, so that its own gradient is not
zero. Where the branch ends in a norm (OLMo-2), the norm's gain is zero instead, whose slope at zero is 1 / sqrt(eps).
Where the norm comes after the addition (hub opt-350m), no zero makes a layer the identity.

Sources: StackBERT (Gong et al. 2019, equation 1); G_stack, arXiv 2405.15319; MSLT, arXiv 2011.13635; bert2BERT, arXiv
2110.07143; interposition, arXiv 2510.08008 (AquilaMoE's equation 3, arXiv 2408.06567, has the fraction inverted);
SOLAR, arXiv 2312.15166; identity blocks, LLaMA-Pro, arXiv 2401.02415.
Deviation: `stack` reaches any number of layers, the last copy being cut at the top; G_stack's factors are whole.
"""

from grow.common.errors import GrowthError
from grow.families.table import Parameter
from grow.growth.settings import GrowthSettings

_STREAM = (("embed",),)


def layer_map(depth: str, before: int, after: int) -> list[int]:
    """Return the source layer of each target layer.

    Args:
        depth: `same`, `stack`, `top`, `interpose` or `overlap`.
        before: Number of layers in the source.
        after: Number of layers in the target.

    Raises:
        GrowthError: this rule cannot make that many layers.
    """
    if after == before:
        return list(range(before))
    _check_reachable(depth, before, after)
    if depth == "stack":
        return [layer % before for layer in range(after)]
    if depth == "top":
        rest = after % before
        return [*range(before)] * (after // before) + [*range(before - rest, before)]
    if depth == "interpose":
        return [layer * before // after for layer in range(after)]
    return [*range(after // 2), *range(before - after // 2, before)]


def planned_layers(growth: GrowthSettings, before: int, after: int) -> list[int]:
    """Return the source layer of each target layer of a growth; of layers that start as the identity too.

    Interposed identities copy the last layer of their group: 32 layers to 40 are 0 1 2 3 3 4 5 6 7 7 ...

    Raises:
        GrowthError: this rule cannot make that many layers.
    """
    if growth.depth == "interpose" and growth.new_layers == "identity" and after > before:
        return [-(-(layer + 1) * before // after) - 1 for layer in range(after)]
    return layer_map(growth.depth, before, after)


def _check_reachable(depth: str, before: int, after: int) -> None:
    others = "growth.depth=stack, top or interpose (growth=g_stack, mslt, interpose or llama_pro)"
    if depth == "same":
        raise GrowthError(
            f"layers: {before} in the source, {after} in the target. This growth keeps them; choose a target with "
            f"layers={before}, or set {others}."
        )
    if after < before:
        raise GrowthError(
            f"layers: {before} in the source, {after} in the target. Growth adds layers; choose a target with at least "
            f"{before}."
        )
    if depth == "overlap" and (after % 2 or after > 2 * before):
        raise GrowthError(
            f"layers: {before} in the source, {after} in the target. growth.depth=overlap joins two copies less their "
            f"seam, so it reaches the even numbers up to {2 * before}. Choose one of those, or {others}."
        )


def repeated_layers(layers: list[int]) -> set[int]:
    """Return the target layers that repeat a layer below them: another one starts from the same source layer."""
    return {target for target, source in enumerate(layers) if source in layers[:target]}


def ends_branch(table: tuple[Parameter, ...], line: Parameter) -> bool:
    """Return whether zeros in this parameter keep its layer's branch out of the residual stream."""
    writers = [other for other in table if other.is_layered and other.writes[0] == _STREAM]
    norms = [other for other in writers if other.normalises is not None]
    return line in (norms or writers)
