"""The evaluations and analyses of a run, read from its directory: scores, weight analyses, forgetting."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grow.common.records import read_record
from grow.common.rows import ANALYSIS_FOLDER, FORGETTING_FILE, Row, protocol_of, read_analyses, read_scores

SCORES = ("acc", "acc_norm", "bits_per_byte")
_UP = ("up_proj", "gate_proj", "fc1", "dense_h_to_4h")
_UNEMBEDDING = ("lm_head.weight", "embed_out.weight")
_LAYER = re.compile(r"\.(\d+)\.")
Points = list[tuple[float, float, float | None]]
"""(tokens, value, standard error or None), by ascending tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The evaluations and analyses of one run; empty where there were none."""

    label: str
    scores: list[Row]
    """Rows with mean scores over tasks."""
    analyses: list[Row]
    """Content of each checkpoint's analysis, oldest first."""
    dips: dict[str, Row]
    """Score -> its `grow.analysis.forgetting.Forgetting`, as a dict."""

    def trend(self, score: str, *, averaged: bool, protocol: str) -> Points:
        """Return the mean score over tasks against tokens; of several measurements at a point the last one counts."""
        name = f"eval{'_avg' if averaged else ''}/mean/{score}"
        rows = {row["tokens"]: row for row in self.scores if name in row and protocol_of(row) == protocol}
        return [(at, rows[at][name], rows[at].get(f"{name}_stderr")) for at in sorted(rows)]

    def symmetry(self) -> dict[str, Points]:
        """Return the symmetry of figure 5's matrices: the layers' up-projections, and the unembedding if untied."""
        names = self.analyses[0]["symmetry"] if self.analyses else ()
        return {_short(name): self._points("symmetry", name) for name in _figure_5(names, self._layers())}

    def effective_rank(self) -> dict[str, Points]:
        """Return the effective rank of figure 6's matrices."""
        return {_short(name): self._points("effective_rank", name) for name in self.spectral_matrices()}

    def spectral_matrices(self) -> list[str]:
        """Return the names of figure 6's matrices: up-projection, attention, down-projection.

        They are those of the first, the second and the last but one of the analyzed layers.
        """
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
    """Read all that was measured on a run besides its validation.

    Args:
        label: Label of the run in figures.
        directory: Run directory.
    """
    forgetting = directory / ANALYSIS_FOLDER / FORGETTING_FILE
    return Measured(
        label=label,
        scores=read_scores(directory),
        analyses=read_analyses(directory),
        dips=read_record(forgetting, dict[str, dict[str, float | None]]) if forgetting.is_file() else {},
    )


def protocols(measured: Iterable[Measured]) -> list[str]:
    """Return the different protocols of all scores, in the order of their first appearance."""
    return list(dict.fromkeys(protocol_of(row) for one in measured for row in one.scores))


def layer_of(name: str) -> int | None:
    """Return the number of the layer in a parameter's name; None outside the layers."""
    match = _LAYER.search(name)
    return None if match is None else int(match[1])


def _figure_5(names: Iterable[str], layers: list[int]) -> list[str]:
    ups = [next((name for name in names if layer_of(name) == layer and _is_up(name)), None) for layer in layers]
    return [name for name in ups if name is not None] + [name for name in names if name in _UNEMBEDDING]


def _is_up(name: str) -> bool:
    return any(part in name for part in _UP)


def _short(name: str) -> str:
    return name.removesuffix(".weight").removeprefix("model.").removeprefix("gpt_neox.")
