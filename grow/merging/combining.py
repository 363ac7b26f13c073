"""How the deltas of several models become one: votes on signs, and coefficients from norms and angles of whole tensors.

Every combination but `agreeing` and `variance` is sum_t c_t d_t with one coefficient a model and tensor; those of
slerp, karcher and stock follow from the Gram matrix <d_s, d_t> alone.

Slerp: Shoemake 1985. Karcher mean on the sphere: Karcher 1977. Model Stock: arXiv 2403.19522, eq. 5. SCE: arXiv
2408.07990. TIES: arXiv 2306.01708.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KARCHER_STEPS = 100
_KARCHER_TOLERANCE = 1e-14
_SMALL_ANGLE = 1e-8

Gram = NDArray[np.float64]
"""Inner products of the models' vectors of one tensor: (models, models)."""


def elected(deltas: Sequence[Tensor], elect: str) -> Tensor:
    """Return the sign that wins at each element: -1, 0 or 1; a vote of exactly zero elects nobody."""
    votes = deltas if elect == "mass" else [delta.sign() for delta in deltas]
    total = votes[0].clone()
    for vote in votes[1:]:
        total += vote
    return total.sign_()


def keep_elected(deltas: Sequence[Tensor], elect: str) -> None:
    """Set to zero, in place, what has another sign than the elected one."""
    signs = elected(deltas, elect)
    for delta in deltas:
        delta.mul_(delta.sign() == signs)


def weighted_sum(deltas: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Return sum_t c_t d_t, first to last, each product rounded before it is added."""
    total = deltas[0] * coefficients[0]
    for delta, coefficient in zip(deltas[1:], coefficients[1:], strict=True):
        total += delta * coefficient
    return total


def agreeing_mean(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean over those that are not zero, and zero where all are."""
    divisor = torch.zeros_like(deltas[0])
    for delta, weight in zip(deltas, weights, strict=True):
        divisor += (delta != 0) * weight
    divisor[divisor == 0] = 1
    return weighted_sum(deltas, weights).div_(divisor)


def variance_of(deltas: Sequence[Tensor]) -> Tensor:
    """Return the variance of each element over the models (SCE's measure of what differs)."""
    mean = weighted_sum(deltas, [1 / len(deltas)] * len(deltas))
    return weighted_sum([(delta - mean).square_() for delta in deltas], [1 / len(deltas)] * len(deltas))


def coefficients(combine: str, weights: Sequence[float], gram: Gram) -> list[float]:
    """Return the coefficient of each model for one tensor.

    Args:
        combine: Sum, mean, slerp, karcher or stock.
        weights: Weight of each model.
        gram: Inner products of the tensors; unused by sum and mean.
    """
    if combine == "sum":
        return list(weights)
    shares = [weight / sum(weights) for weight in weights]
    if combine == "mean":
        return shares
    if combine == "slerp":
        return _slerp(shares[1], gram)
    return _karcher(np.array(shares), gram) if combine == "karcher" else _stock(gram)


def _cosines(gram: Gram) -> Gram:
    norms = np.sqrt(np.diag(gram))
    scales = np.where(norms > 0, norms, 1)
    return gram / np.outer(scales, scales)


def _slerp(t: float, gram: Gram) -> list[float]:
    """Interpolate along the great circle; in a straight line where the two are parallel, opposite or zero."""
    angle = math.acos(max(-1.0, min(1.0, float(_cosines(gram)[0, 1]))))
    if not gram.diagonal().all() or math.sin(angle) < _SMALL_ANGLE:
        return [1 - t, t]
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def _karcher(shares: NDArray[np.float64], gram: Gram) -> list[float]:
    """Return the Riemannian mean of the directions, with the mean norm; q = sum_t c_t d_t / |d_t| all along."""
    norms = np.sqrt(np.diag(gram))
    if not norms.all():
        return [float(share) for share in shares]
    cosines = _cosines(gram)
    point = shares / math.sqrt(max(float(shares @ cosines @ shares), _SMALL_ANGLE))
    for _ in range(_KARCHER_STEPS):
        towards = np.clip(cosines @ point, -1, 1)
        angles = np.arccos(towards)
        sines = np.sin(angles)
        stretch = np.divide(angles, sines, out=np.ones_like(angles), where=sines > _SMALL_ANGLE) * shares
        step = stretch - (stretch @ towards) * point  # sum_t share_t log_q(u_t), in coefficients
        size = math.sqrt(max(float(step @ cosines @ step), 0.0))
        if size < _KARCHER_TOLERANCE:
            break
        point = math.cos(size) * point + math.sin(size) / size * step
        point /= math.sqrt(float(point @ cosines @ point))
    return [float(value) for value in point / norms * (shares @ norms)]


def _stock(gram: Gram) -> list[float]:
    """Return t / N for each: t = N cos / (1 + (N - 1) cos), cos the mean over pairs; the base at 90 degrees or more."""
    models = len(gram)
    cosine = float(_cosines(gram)[np.triu_indices(models, 1)].mean())
    cosine = max(0.0, min(1.0, cosine))
    return [cosine / (1 + (models - 1) * cosine)] * models
