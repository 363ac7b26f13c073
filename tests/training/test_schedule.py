"""Learning rates at tokens where they are known in closed form."""

import math

import pytest

from grow.common.errors import ConfigError
from grow.training.settings import ScheduleSettings
from grow.training.step.schedule import multiplier


def schedule(kind: str, **settings) -> ScheduleSettings:
    return ScheduleSettings(name="test", kind=kind, **settings)


@pytest.mark.parametrize(
    ("settings", "tokens", "expected"),
    [
        (schedule("cosine", warmup_tokens=100), 50, 0.5),
        (schedule("cosine", warmup_tokens=100), 100, 1.0),
        (schedule("cosine", warmup_fraction=0.2), 100, 0.5),
        (schedule("cosine", warmup_tokens=0, final_fraction=0.1), 500, 0.55),
        (schedule("cosine", warmup_tokens=0, final_fraction=0.1), 250, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2),
        (schedule("cosine", warmup_tokens=200, final_fraction=0.0), 600, 0.5),
        (schedule("cosine", final_fraction=0.1), 1000, 0.1),
        (schedule("cosine", final_fraction=0.1), 1024, 0.1),
        (schedule("paper", warmup_tokens=100, decay_tokens=500, final_fraction=0.2), 300, 0.6),
        (schedule("paper", warmup_tokens=100, decay_tokens=500, final_fraction=0.2), 500, 0.2),
        (schedule("paper", warmup_tokens=100, decay_tokens=500, final_fraction=0.2), 900, 0.2),
        (schedule("paper", warmup_tokens=0, decay_fraction=0.5, final_fraction=0.0), 250, 0.5),
        (schedule("wsd", warmup_tokens=100, decay_fraction=0.2, final_fraction=0.0), 50, 0.5),
        (schedule("wsd", warmup_tokens=100, decay_fraction=0.2, final_fraction=0.0), 800, 1.0),
        (schedule("wsd", warmup_tokens=100, decay_fraction=0.2, final_fraction=0.0), 900, 0.5),
        (schedule("wsd", warmup_tokens=0, decay_tokens=0), 500, 1.0),
        (schedule("wsd", warmup_tokens=100, decay_tokens=400, final_fraction=0.5), 800, 0.75),
        (schedule("wsd", warmup_tokens=100, decay_fraction=0.2, final_fraction=0.1), 1000, 0.1),
    ],
)
def test_multiplier_is_the_closed_form(settings, tokens, expected):
    assert multiplier(settings, tokens, max_tokens=1000) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["paper", "cosine", "wsd"])
def test_warm_up_rises_and_the_rest_never_does(kind):
    shares = [multiplier(schedule(kind, warmup_tokens=200), tokens, 1000) for tokens in range(0, 1001, 10)]
    assert shares[:21] == sorted(shares[:21])
    assert shares[20:] == sorted(shares[20:], reverse=True)


def test_a_decay_that_a_cosine_over_the_whole_run_would_ignore_is_refused():
    with pytest.raises(ConfigError, match="decay_tokens"):
        schedule("cosine", decay_tokens=5)
