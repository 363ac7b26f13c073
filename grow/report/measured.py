"""Reads what evaluations and analyses, in a run or after it, left in its directory: scores, weights, forgetting."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grow.common.provenance import read_json
from grow.common.rows import ANALYSIS_FOLDER, FORGETTING_FILE, Row, protocol_of, read_analyses, read_scores

SCORES = ("acc", "acc_norm", "bits_per_byte")
_UP = ("up_proj", "gate_proj", "fc1", "dense_h_to_4h")
_UNEMBEDDING = ("lm_head.weight", "embed_out.weight")
_LAYER = re.compile(r"\.(\d+)\.")
Points = list[tuple[float, float, float | None]]
"""Tokens, value and standard error, ascending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One run's evaluations and analyses, as far as there are any."""

    label: str
    scores: list[Row]
    analyses: list[Row]
    """Content of each checkpoint's analysis, oldest first."""
    dips: dict[str, Row]

    def trend(self, score: str, *, averaged: bool, protocol: str) -> Points:
        """The mean score over tasks against tokens; the last measurement of a point stands."""
        name = f"eval{'_avg' if averaged else ''}/mean/{score}"
        rows = {row["tokens"]: row for row in self.scores if name in row and protocol_of(row) == protocol}
        return [(at, rows[at][name], rows[at].get(f"{name}_stderr")) for at in sorted(rows)]

    def symmetry(self) -> dict[str, Points]:
        """Figure 5's matrices: an up-projection of the analyzed layers, and the unembedding where it is its own."""
        names = self.analyses[0]["symmetry"] if self.analyses else ()
        return {_short(name): self._points("symmetry", name) for name in _figure_5(names, self._layers())}

    def effective_rank(self) -> dict[str, Points]:
        """Effective rank of figure 6's matrices."""
        return {_short(name): self._points("effective_rank", name) for name in self.spectral_matrices()}

    def spectral_matrices(self) -> list[str]:
        """Figure 6's kinds of matrix: an up-projection of the first layer analyzed, attention of the second, and a
        down-projection of the last but one."""
        names, layers = sorted(self.analyses[0]["spectra"]) if self.analyses else [], self._layers()
        wanted = zip(((*_UP,), ("attn", "attention"), ("down_proj", "fc2", "4h_to_h")), (0, 1, -2), strict=True)
        found = []
        for parts, place in wanted:
            layer = layers[max(min(place, len(layers) - 1), -len(layers))] if layers else None
            own = [name for name in names if layer_of(name) == layer and any(part in name for part in parts)]
            found += own[:1]
        return list(dict.fromkeys(found))

    def _layers(self) -> list[int]:
        found = {layer_of(name) for analysis in self.analyses[:1] for name in analysis["spectra"]}
        return sorted(layer for layer in found if layer is not None)

    def _points(self, kind: str, name: str) -> Points:
        return [(row["tokens"], row[kind][name], None) for row in self.analyses if name in row[kind]]


def read_measured(label: str, directory: Path) -> Measured:
    """Everything that was measured on a run beside its validation; empty lists where nothing was."""
    forgetting = directory / ANALYSIS_FOLDER / FORGETTING_FILE
    return Measured(
        label=label,
        scores=read_scores(directory),
        analyses=read_analyses(directory),
        dips=read_json(forgetting) if forgetting.is_file() else {},
    )


def protocols(measured: Iterable[Measured]) -> list[str]:
    """Every protocol that occurs, in the order it first did."""
    return list(dict.fromkeys(protocol_of(row) for one in measured for row in one.scores))


def layer_of(name: str) -> int | None:
    """Return the layer that a tensor or measurement of this name belongs to, or None."""
    match = _LAYER.search(name)
    return None if match is None else int(match[1])


def _figure_5(names: Iterable[str], layers: list[int]) -> list[str]:
    ups = [next((name for name in names if layer_of(name) == layer and _is_up(name)), None) for layer in layers]
    return [name for name in ups if name is not None] + [name for name in names if name in _UNEMBEDDING]


def _is_up(name: str) -> bool:
    return any(part in name for part in _UP)


def _short(name: str) -> str:
    return name.removesuffix(".weight").removeprefix("model.").removeprefix("gpt_neox.")
