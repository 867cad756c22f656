"""Test settings. ``HYPOTHESIS_PROFILE=soak`` looks for new examples, for as long as it takes."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

pytest.register_assert_rewrite("models")

settings.register_profile(
    "default",
    derandomize=True,  # the same examples on every machine
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "soak", parent=settings.get_profile("default"), derandomize=False, max_examples=2500
)
# For planted bugs: a failure is all that is asked for, not the smallest.
settings.register_profile("bugs", parent=settings.get_profile("default"), phases=[Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
