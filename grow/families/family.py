"""One model family as the rest of Grow sees it: its axis table, its size names, its stock configuration class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grow.common.errors import ConfigError, GrowthError
from grow.families.settings import ModelSettings
from grow.families.table import Parameter

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Sizes = dict[str, int]
"""embed, word, heads, kv_heads, head_dim, ffn, layers, vocab, positions: lengths and counts of one model."""

_SETTING_OF = {"vocab": "vocab_size", "positions": "max_positions", "word": "word_embed"}  # where the names differ
_LAYER_LISTS = ("layer_types", "no_rope_layers")  # stock attributes with one entry for each layer
_NEUTRAL_ATTRIBUTES = {
    # They may differ between a source and its target without changing what the model computes.
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "pretraining_tp"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "init_std", "tie_word_embeddings"),
    *("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "classifier_dropout", "layerdrop"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"),
    *("max_window_layers", "no_rope_layer_interval"),  # what the lists of layers were made from
    *_LAYER_LISTS,  # they follow the layers (`Family.with_layers`)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One model family over its stock transformers classes."""

    model_type: str
    table: tuple[Parameter, ...]
    attributes: Mapping[str, str]
    """Size name -> attribute of the stock configuration. A size that is missing here is derived from the others."""
    config_class: str
    """Name of the stock configuration class in transformers."""
    specifics: Callable[[Any], dict[str, Any]]
    """Model settings -> the stock attributes that only this family has, or names in its own way."""
    rotary_dims: Callable[["PreTrainedConfig"], int] = field(default=lambda config: 0)
    """Stock configuration -> rotated elements of each head, in half-split pairs; 0 without rotary positions."""
    centred: bool = False
    """Whether its norms subtract the mean (LayerNorm); those of other families only divide (RMSNorm)."""
    normalises_stream: Callable[["PreTrainedConfig"], bool] = field(default=lambda config: False)
    """Whether its layers normalise the residual stream itself, after each addition (post-norm)."""
    ends_in_norm: Callable[["PreTrainedConfig"], bool] = field(default=lambda config: True)
    """Whether a norm follows the last layer."""
    score_scale: Callable[["PreTrainedConfig"], float] | None = None
    """Stock configuration -> factor on its attention scores; None where that is head_dim ** -0.5."""
    unsupported: Callable[["PreTrainedConfig"], str | None] = field(default=lambda config: None)
    """Stock configuration -> what in it the axis table does not describe; None where the table describes all."""
    depends_on_place: Callable[["PreTrainedConfig"], str | None] = field(default=lambda config: None)
    """Stock configuration -> what makes a layer compute something else at another depth; None where nothing does."""
    derived: Mapping[str, Callable[["PreTrainedConfig"], int]] = field(default_factory=dict)
    """Size name -> its value where the stock configuration leaves it open."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Checkpoint name -> name in the stock module, where the two differ."""
    unpacked: Callable[[str, tuple[int, ...]], dict[str, tuple[int, ...]]] = field(
        default=lambda name, shape: {name: shape}
    )
    """Name and shape of a parameter in the stock module -> names and shapes of its tensors in a checkpoint."""
    dense: str | None = None
    """Model type of the dense models whose feed-forward blocks can become this family's experts, or None."""
    dense_names: Mapping[str, str] = field(default_factory=dict)
    """Name of an expert's parameters -> name of the same parameters in the dense model."""

    @property
    def scales_embedding(self) -> bool:
        """Whether the model multiplies embeddings by the root of its width."""
        return any((("unscaled",),) in line.writes for line in self.table)

    def stored_name(self, parameter: str) -> str:
        """Return the name that checkpoints and axis tables give to a parameter of the stock module."""
        return next((stored for stored, module in self.renamed.items() if module == parameter), parameter)

    def stock_config(self, model: ModelSettings) -> "PreTrainedConfig":
        """Build the transformers configuration of a model's settings."""
        import transformers

        sizes = {size: getattr(model, _SETTING_OF.get(size, size)) for size in self.attributes}
        if "word" in sizes:
            sizes["word"] = sizes["word"] or model.embed
        config_class = getattr(transformers, self.config_class)
        named = {
            **{self.attributes[size]: length for size, length in sizes.items()},
            **self.specifics(model),
            "tie_word_embeddings": model.tied_head,
            "bos_token_id": model.bos_id,
            "eos_token_id": model.eos_id,
            "pad_token_id": model.pad_id,
        }
        self._check_stock(model, named, config_class)
        nested = {name: {**named[name], **model.stock[name]} for name in model.stock.keys() & named.keys()}
        return config_class(**{**named, **model.stock, **nested})

    def _check_stock(self, model: ModelSettings, named: Mapping[str, Any], config_class: type) -> None:
        """Refuse attributes that the stock configuration does not have, and those that have a key of their own."""
        own = [name for name in model.stock if name in named and not isinstance(named[name], dict)]
        unknown = sorted(model.stock.keys() - config_class().to_dict().keys())
        if own or unknown:
            raise ConfigError(
                f"model.stock: {self.config_class} has no {', '.join(unknown)}."
                if unknown
                else f"model.stock: {', '.join(own)} follow from the model's own keys, which --cfg job prints."
            )

    def sizes(self, config: "PreTrainedConfig") -> Sizes:
        """Return the sizes of a stock configuration, those that it leaves to be derived included."""
        found: dict[str, Any] = {size: getattr(config, attribute, None) for size, attribute in self.attributes.items()}
        found |= {size: derive(config) for size, derive in self.derived.items() if found.get(size) is None}
        found.setdefault("word", found["embed"])
        if found.get("kv_heads") is None:
            found["kv_heads"] = found["heads"]
        if found.get("head_dim") is None:
            found["head_dim"] = found["embed"] // found["heads"]
        return found

    def resize(self, config: "PreTrainedConfig", sizes: Sizes) -> "PreTrainedConfig":
        """Return a copy of a stock configuration with other sizes.

        Raises:
            GrowthError: the family cannot have these sizes together.
        """
        before = self.sizes(config)["layers"]
        values: dict[str, Any] = {attribute: sizes[size] for size, attribute in self.attributes.items()}
        values |= _layer_lists(config, [layer % before for layer in range(sizes["layers"])])
        try:
            resized = type(config).from_dict({**config.to_dict(), **values})
        except Exception as error:  # transformers wraps its validators' errors in a class of its own
            raise GrowthError(f"{self.model_type} cannot have these sizes: {' '.join(str(error).split())}") from None
        found = self.sizes(resized)
        wrong = {size: found[size] for size in found if found[size] != sizes[size]}
        if wrong:
            raise GrowthError(
                f"a {self.model_type} model of embed={sizes['embed']} and {sizes['heads']} heads has {wrong}, but "
                f"{ {size: sizes[size] for size in wrong} } was requested: its embed is heads x head_dim. "
                "Scale embed by scale.heads x scale.head_dim."
            )
        return resized

    def with_layers(self, config: "PreTrainedConfig", origins: Sequence[tuple["PreTrainedConfig", int]]) -> None:
        """Give each layer of a configuration the kind of attention and positions of its origin, in place.

        Args:
            config: Configuration of the target.
            origins: For each of its layers, the source's configuration and the number of the layer in it.
        """
        for name in _LAYER_LISTS:
            if getattr(config, name, None) is not None:
                setattr(config, name, [getattr(source, name)[layer] for source, layer in origins])

    def other_layers(self, one: "PreTrainedConfig", other: "PreTrainedConfig") -> list[int]:
        """Return the layers whose kind of attention or positions differs between two configurations of one depth."""
        pairs = [(getattr(one, name, None) or [], getattr(other, name, None) or []) for name in _LAYER_LISTS]
        return sorted({layer for ours, theirs in pairs for layer, own in enumerate(ours) if theirs[layer] != own})

    def differences(self, source: "PreTrainedConfig", target: "PreTrainedConfig") -> dict[str, tuple[Any, Any]]:
        """Return the attributes, sizes apart, that make the two compute different functions: name -> both values."""
        declared = type(source)().to_dict().keys() - _NEUTRAL_ATTRIBUTES - set(self.attributes.values())
        pairs = {name: (getattr(source, name, None), getattr(target, name, None)) for name in sorted(declared)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _layer_lists(config: "PreTrainedConfig", layers: Sequence[int]) -> dict[str, list[Any]]:
    """Return the entries of these layers in each list that has one entry for each layer."""
    lists = {name: getattr(config, name, None) for name in _LAYER_LISTS}
    return {name: [entries[layer] for layer in layers] for name, entries in lists.items() if entries is not None}
