"""One model family as the rest of Grow sees it: its axis table, its size names, its stock configuration class."""

from collections.abc import Callable, Mapping
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
_NEUTRAL_ATTRIBUTES = {
    # They may differ between a source and its target without changing what the model computes.
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "pretraining_tp"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "init_std", "tie_word_embeddings"),
    *("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "classifier_dropout", "layerdrop"),
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
        found = {size: getattr(config, attribute) for size, attribute in self.attributes.items()}
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
        values = {attribute: sizes[size] for size, attribute in self.attributes.items()}
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

    def differences(self, source: "PreTrainedConfig", target: "PreTrainedConfig") -> dict[str, tuple[Any, Any]]:
        """Return the attributes, sizes apart, that make the two compute different functions: name -> both values."""
        declared = type(source)().to_dict().keys() - _NEUTRAL_ATTRIBUTES - set(self.attributes.values())
        pairs = {name: (getattr(source, name, None), getattr(target, name, None)) for name in sorted(declared)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
