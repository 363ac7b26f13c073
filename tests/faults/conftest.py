"""How long hypothesis looks for faults.

GROW_FUZZ=long runs every fuzz test for many more examples: GROW_FUZZ=long python -m pytest tests/faults -k fuzz.
"""

import os

from hypothesis import HealthCheck, settings

_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", max_examples=100, deadline=None, suppress_health_check=_SLOW_IS_FINE, derandomize=True)
settings.register_profile("long", max_examples=100_000, deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.load_profile(os.environ.get("GROW_FUZZ", "ci"))
