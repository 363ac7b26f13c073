"""The links of a chain: what each says to train.py, and whether all of them can be run before any of them is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from grow.common.errors import ConfigError, GrowError
from grow.families.settings import ArchitectureSettings, ModelSettings
from grow.growth.settings import ChainSettings, GrowthSettings, LinkSettings, ScaleSettings
from grow.training.plan import Plan
from grow.training.run_directory import RunDirectory
from grow.training.settings import OptimizerSettings, TrainableSettings, TrainerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_WIDTHS = ("embed", "word_embed", "heads", "kv_heads", "ffn")
_OF_THE_CHAIN = ("chain", "run_dir", "baseline", "continued")
_SEEDS_APART = 1000  # the last link reads the data in the order of seed, the one before in that of seed + 1000, ...


class RunOfChain(Protocol):
    """The configuration of one run, as far as a chain reads it; grow/cli has the whole."""

    model: ArchitectureSettings
    growth: GrowthSettings | None
    scale: ScaleSettings
    optimizer: OptimizerSettings
    trainable: TrainableSettings
    trainer: TrainerSettings
    seed: int
    resume: str

    @property
    def directory(self) -> Path:
        """The run directory."""

    @property
    def start(self) -> str:
        """What the weights start as, in a word."""

    def architecture(self) -> "PreTrainedConfig":
        """Return the architecture of the run."""

    def plan(self) -> Plan:
        """Work out what this process will do in the run."""

    def resolved(self) -> dict[str, Any]:
        """Return the configuration as plain data."""


class Chain(RunOfChain, Protocol):
    """The configuration of a chain: its target's, and its links'."""

    chain: ChainSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One run of a chain."""

    name: str
    overrides: list[str]
    """What train.py is started with."""
    run: RunOfChain

    @property
    def directory(self) -> RunDirectory:
        """Where the link is trained."""
        return RunDirectory(self.run.directory)

    @property
    def tokens(self) -> int:
        """Tokens that the link trains on."""
        return self.run.trainer.max_tokens


def links_of(config: Chain, given: Sequence[str], compose: Callable[[list[str]], RunOfChain]) -> list[Link]:
    """Compose every link.

    Args:
        config: The chain's configuration.
        given: Overrides of the command line, which go to every link.
        compose: Makes the configuration of a run of the overrides that train.py is started with.

    Raises:
        ConfigError: a size or a number of tokens does not come out whole, or a link cannot be configured.
    """
    settings = config.chain.links
    tokens = _shared([link.tokens for link in settings.values()], config)
    links: list[Link] = []
    for number, (name, link) in enumerate(settings.items(), start=1):
        where = f"{number:02}_{name}"
        last = str(links[-1].directory.path) if links else None
        computed = {
            **_sizes(f"chain.links.{name}", link, config),
            **({"optimizer.lr": f"{config.optimizer.lr * link.lr:.6g}"} if link.lr != 1 else {}),
            "trainer.max_tokens": str(tokens[number - 1]),
            "growth": link.growth,
            **({"growth.source": last} if last else {}),
            "trainable": link.trainable,
            "seed": str(config.seed + _SEEDS_APART * (len(settings) - number)),
            "run_dir": str(config.directory / where),
        }
        overrides = _merged(link.overrides, given, computed)
        with _naming(where):
            links.append(Link(name=where, overrides=overrides, run=compose(overrides)))
    return links


def check(links: Sequence[Link]) -> None:
    """Refuse, before anything is trained, a chain that would stop at a later link.

    Raises:
        ConfigError: a link cannot be run by these processes, or its directory holds a run of another configuration.
        GrowthError: a link cannot be grown from the one before it.
    """
    for link in links:
        with _naming(link.name):
            link.run.plan()
            link.directory.check_continues(link.run.resolved(), link.run.resume)
    for before, link in pairwise(links):
        if not link.directory.growth.exists():
            with _naming(link.name):
                _rehearse(before.run, link.run)


def _rehearse(before: RunOfChain, run: RunOfChain) -> None:
    """Refuse a link that cannot be grown from the one before it, without any weights."""
    # Heavy imports wait until here, so that mistakes in the configuration answer at once.
    from grow.growth.depth import repeated_layers
    from grow.growth.rehearsal import rehearse
    from grow.training.step.trainable import parts_of

    assert run.growth is not None  # it is only for the first link
    target = run.architecture()
    plan = rehearse(before.architecture(), target, run.growth)
    parts_of(run.trainable, target.num_hidden_layers, repeated_layers(plan.layers))


@contextmanager
def _naming(link: str) -> Iterator[None]:
    """Name the link that an error is about."""
    try:
        yield
    except GrowError as error:
        raise type(error)(f"link {link}: {error}") from None


def _shared(weights: Sequence[float], config: Chain) -> list[int]:
    """Return the tokens of each link, in whole steps; the last one takes what rounding leaves."""
    step, steps = config.trainer.tokens_per_step, config.trainer.max_tokens // config.trainer.tokens_per_step
    counts = [round(steps * weight / sum(weights)) for weight in weights]
    counts[-1] = steps - sum(counts[:-1])
    if min(counts) < 1:
        raise ConfigError(
            f"trainer.max_tokens={config.trainer.max_tokens} is the whole chain's, and leaves a link less than one "
            f"step of trainer.tokens_per_step={step}: {', '.join(f'{count} steps' for count in counts)}."
        )
    return [count * step for count in counts]


def _sizes(key: str, link: LinkSettings, config: Chain) -> dict[str, str]:
    """Return the settings of the model, or of its scale, in which a link differs from the target."""
    model = config.model
    shares = {"layers": link.layers, **dict.fromkeys(_WIDTHS, link.width)}
    if not isinstance(model, ModelSettings):
        return _factors(key, link, config.scale, shares)
    sizes = dict(link.sizes)
    for size, share in shares.items():
        whole = getattr(model, size, None)
        if size not in sizes and whole is not None and share != 1:
            sizes[size] = _whole(f"{key}.{'layers' if size == 'layers' else 'width'}", size, whole, share)
    return {f"model.{size}": str(length) for size, length in sizes.items()}


def _factors(key: str, link: LinkSettings, scale: ScaleSettings, shares: dict[str, float]) -> dict[str, str]:
    """Return the factors on the sizes of a source in which a link differs from the target."""
    if link.sizes:
        raise ConfigError(
            f"{key}.sizes={link.sizes}: model=scaled has factors instead of sizes. Set {key}.layers or {key}.width, or "
            f"\"{key}.overrides=['scale.layers=0.5']\"."
        )
    factors = {size: getattr(scale, size, None) for size in shares}
    return {f"scale.{size}": f"{factor * shares[size]:.12g}" for size, factor in factors.items() if factor is not None}


def _whole(key: str, size: str, whole: int, share: float) -> int:
    """Return a share of a size; refuse one that is not a whole number."""
    length = round(whole * share)
    if abs(length - whole * share) > 1e-6 or length < 1:
        raise ConfigError(
            f"{key}={share:g}: {size} of the target is {whole}, and {whole} x {share:g} is not a whole number. Choose "
            f"another target or share, or give the size outright: +{key.rpartition('.')[0]}.sizes.{size}=N."
        )
    return length


def _merged(of_link: Sequence[str], given: Sequence[str], computed: dict[str, str]) -> list[str]:
    """Return the overrides of a link, each key once: computed ones win over given ones, and those over the link's own.

    Of the link's own, those go whose group the command line says something about.
    """
    groups = {_key(override).partition(".")[0] for override in given}
    kept = [override for override in of_link if _key(override).partition(".")[0] not in groups]
    kept += [override for override in given if _key(override).partition(".")[0] not in _OF_THE_CHAIN]
    every = [*kept, *(f"{key}={value}" for key, value in computed.items())]
    return list({_key(override): override for override in every}.values())


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
