"""Learning-rate schedules: the learning rate as a multiple of its peak, a pure function of settings and tokens."""

import math

from grow.training.settings import ScheduleSettings


def multiplier(settings: ScheduleSettings, tokens: int, max_tokens: int) -> float:
    """Return the multiple of the peak learning rate for the optimizer step that brings a run to `tokens`.

    Args:
        settings: Kind of the schedule, its warm-up and decay.
        tokens: Tokens seen after the step, so that the first step of a warm-up has a learning rate above 0.
        max_tokens: Length of the run in tokens.
    """
    warmup = settings.warmup(max_tokens)
    decay = _length(settings.decay_tokens, settings.decay_fraction, max_tokens)
    if tokens < warmup:
        return tokens / warmup
    if settings.kind == "wsd":
        return _linear(tokens, max(warmup, max_tokens - decay), max_tokens, settings.final_fraction)
    return _cosine(tokens, warmup, max_tokens if settings.kind == "cosine" else decay, settings.final_fraction)


def _length(tokens: int | None, fraction: float, max_tokens: int) -> float:
    return fraction * max_tokens if tokens is None else tokens


def _linear(tokens: int, start: float, end: float, final: float) -> float:
    return 1 + (final - 1) * _progress(tokens, start, end)


def _cosine(tokens: int, start: float, end: float, final: float) -> float:
    return final + (1 - final) * (1 + math.cos(math.pi * _progress(tokens, start, end))) / 2


def _progress(tokens: int, start: float, end: float) -> float:
    """Return the fraction of the way from start to end: 0 before the start, 1 after the end."""
    if tokens >= end:
        return 1.0
    return (tokens - start) / (end - start) if tokens > start else 0.0
