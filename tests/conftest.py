"""What every test shares: how hypothesis looks for counterexamples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A gate must answer the same twice: examples are drawn from the test's own source. ``make fuzz``
# draws anew each time, and more of them. No time limit: the machine may be busy with other things.
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("gate", derandomize=True, **_UNTIMED)
settings.register_profile("fuzz", derandomize=False, print_blob=True, **_UNTIMED)
settings.load_profile(os.environ.get("LENTIGO_TEST_HYPOTHESIS", "gate"))
