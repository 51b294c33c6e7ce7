"""What every test shares: how hypothesis looks for counterexamples."""

from __future__ import annotations

import os

from hypothesis import settings

# A gate must answer the same twice: examples are drawn from the test's own source. ``make fuzz``
# draws anew each time, and more of them.
settings.register_profile("gate", derandomize=True)
settings.register_profile("fuzz", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("LENTIGO_TEST_HYPOTHESIS", "gate"))
