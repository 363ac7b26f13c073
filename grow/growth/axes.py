"""Makes the map of every axis of a growth from the sizes of source and target: one for each name in an axis table.

    embed      the residual stream: ONE map for all who write it, since a residual addition adds element by element
    normed     the stream behind a norm (where a filler is zero);  head_in: what the head reads
    unscaled   the stream before the model multiplies it by sqrt(embed) (Gemma)
    heads      whole heads, query heads inside the group of their key-value head;  query, key, value: inside a head
    raw_heads  the same heads before a norm over all of them (OLMo-2), expanded so that it sees the same statistics
    ffn        hidden units: not normalised, so that any index map is exact
    experts    whole experts with their row of the router; copies share its probability if as many more are active

Source: the tying rules of bert2BERT, arXiv 2110.07143, section 3.2; grouped queries after AquilaMoE, arXiv 2408.06567.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedConfig

from grow.common.errors import GrowthError
from grow.families.family import Family, Sizes
from grow.growth import maps
from grow.growth.maps import AxisMap
from grow.growth.settings import GrowthSettings
from grow.growth.values import random_generator


def axis_maps(
    family: Family, source: PreTrainedConfig, target: PreTrainedConfig, growth: GrowthSettings
) -> dict[str, AxisMap]:
    """Return the map of every axis that the axis table of this family can name.

    Raises:
        GrowthError: this growth cannot reach a size of the target.
    """
    sizes = _Sizes(before=family.sizes(source), after=family.sizes(target), growth=growth)
    embed = _stream(sizes, centred=family.centred)
    own_table = sizes.before["word"] != sizes.before["embed"] or sizes.after["word"] != sizes.after["embed"]
    word = _plain(sizes, "word") if own_table else embed
    unscaled = before_root(embed, sizes.before["embed"], sizes.after["embed"])
    tied = bool(target.tie_word_embeddings)
    kv_heads = _plain(sizes, "kv_heads")
    heads = _heads(sizes, kv_heads)
    query, key = _query_and_key(sizes, family.rotary_dims(source))
    return {
        "embed": embed,
        "normed": maps.after_norm(embed),
        "word": word,
        "unscaled": unscaled,
        "head_in": head_input(unscaled if tied and family.scales_embedding else word, tied=tied),
        "kv_heads": kv_heads,
        "raw_kv_heads": maps.isometric(kv_heads.index, kv_heads.source_length),
        "heads": heads,
        "raw_heads": maps.isometric(heads.index, heads.source_length),
        "query": maps.rescaled(query, _score_factor(family, source, target, sizes)),
        "key": key,
        "value": maps.tile(sizes.before["head_dim"], _factor(sizes, "head_dim")),
        "ffn": _plain(sizes, "ffn"),
        **_experts(sizes),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sizes:
    before: Sizes
    after: Sizes
    growth: GrowthSettings


def _stream(sizes: _Sizes, *, centred: bool) -> AxisMap:
    """Return the map of the residual stream, which norms go over."""
    before, after = sizes.before["embed"], sizes.after["embed"]
    width = sizes.growth.width
    if width == "isometric":
        return maps.isometric(_index(sizes, "embed", before, after), before)
    if width in ("filled", "padded"):
        _check_not_smaller("embed", before, after)
        averaged = centred and width == "filled"
        return maps.filled(before, after, copies=after // before if width == "filled" else 1, averaged=averaged)
    return _plain(sizes, "embed")


def _plain(sizes: _Sizes, size: str) -> AxisMap:
    """Return the map of an axis that no norm goes over, so that any index map keeps the function."""
    return _indexed(sizes, size, sizes.before[size], sizes.after[size])


def _indexed(sizes: _Sizes, size: str, before: int, after: int) -> AxisMap:
    if sizes.growth.width == "tile":
        return maps.tile(before, _factor(sizes, size, before, after))
    if sizes.growth.width == "padded":
        _check_not_smaller(size, before, after)
        return maps.unread(before, after)
    return maps.make_map(_index(sizes, size, before, after), before)


def _index(sizes: _Sizes, size: str, before: int, after: int) -> Tensor:
    _check_not_smaller(size, before, after)
    generator = random_generator(sizes.growth.seed, f"axis {size}", 0)
    if sizes.growth.width == "filled":
        return maps.cyclic(before, after)
    return (maps.drawn if sizes.growth.width == "drawn" else maps.dealt)(before, after, generator)


def _check_not_smaller(size: str, before: int, after: int) -> None:
    if after < before:
        raise GrowthError(
            f"{size}: {before} in the source, {after} in the target. Growth never removes anything; choose a target "
            f"with at least {before}."
        )


def _factor(sizes: _Sizes, size: str, before: int | None = None, after: int | None = None) -> int:
    before, after = before or sizes.before[size], after or sizes.after[size]
    if after % before:
        below = max(after // before, 1)
        others = "" if size == "head_dim" else (
            " For this size choose growth.width=dealt, isometric or filled (growth=bert2bert_fpi, isometric, lemon) or "
            "padded (growth=zero_pad)."
        )  # fmt: skip
        raise GrowthError(
            f"{size}: the target's {after} is not a multiple of the source's {before}. Whole copies need whole "
            f"factors; {before} x {below} = {before * below} is the nearest below.{others}"
        )
    return after // before


def _heads(sizes: _Sizes, kv_heads: AxisMap) -> AxisMap:
    """Return the map of the query heads: groups grow as the key-value heads do, and each group grows inside itself."""
    before, after = (each["heads"] // each["kv_heads"] for each in (sizes.before, sizes.after))
    if sizes.after["heads"] % sizes.after["kv_heads"] or after < before:
        raise GrowthError(
            f"query heads grow from {sizes.before['heads']} to {sizes.after['heads']}, key-value heads from "
            f"{sizes.before['kv_heads']} to {sizes.after['kv_heads']}: each group keeps its key-value head, so the "
            "factor of the query heads must be a multiple of the first's, that of the key-value heads."
        )
    return maps.product(kv_heads, _indexed(sizes, "heads of a group", before, after))


def _query_and_key(sizes: _Sizes, rotary_dims: int) -> tuple[AxisMap, AxisMap]:
    copies = _factor(sizes, "head_dim")
    plain = sizes.before["head_dim"] - rotary_dims
    rotated = maps.query_under_rotary(rotary_dims, copies), maps.key_under_rotary(rotary_dims, copies)
    tiled = maps.query_of_tiled_head(plain, copies), maps.tile(plain, copies)
    query, key = (maps.concatenate([*pair], label_parts=False) for pair in zip(rotated, tiled, strict=True))
    return query, key


def _experts(sizes: _Sizes) -> dict[str, AxisMap]:
    """Return the map of the experts by its name, for a mixture of experts; nothing for a dense model."""
    if "experts" not in sizes.before:
        return {}
    return {"experts": maps.tile(sizes.before["experts"], _factor(sizes, "experts"))}


def _score_factor(family: Family, source: PreTrainedConfig, target: PreTrainedConfig, sizes: _Sizes) -> float:
    """Return what queries need besides the sqrt(n) of n times the head_dim, where scores are scaled by another rule."""
    if family.score_scale is None:
        return 1.0
    ratio = family.score_scale(source) / family.score_scale(target)
    return ratio / _factor(sizes, "head_dim") ** 0.5


def before_root(embed: AxisMap, before: int, after: int) -> AxisMap:
    """Return the map of a stream that the model multiplies by the root of its width: `before` in the source."""
    return maps.rescaled(embed, (before / after) ** 0.5)


def head_input(word: AxisMap, *, tied: bool) -> AxisMap:
    """Return the map of what the head reads.

    A tied head is the embedding table, which cannot be divided by the number of copies: what writes its input is.
    """
    return maps.transposed(word) if tied else maps.after_norm(word)
