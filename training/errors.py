"""Errors of the training layer: ``TrainingError`` and its kinds.

    TrainingError
    ├── SettingsError      a configuration file that cannot be used
    ├── CohortError        a table, its images or its splits that cannot be used
    │   └── LeakageError   one group in more than one split
    └── RunError           a run folder that cannot be resumed, evaluated or exported

Messages name files, columns, groups and counts.
"""


class TrainingError(Exception):
    """A training run, an evaluation or an export cannot be done as asked."""


class SettingsError(TrainingError):
    """The configuration file has unknown, missing or impossible values."""


class CohortError(TrainingError):
    """A table, its images or its masks cannot be used as a cohort."""


class LeakageError(CohortError):
    """One group appears in more than one split."""


class RunError(TrainingError):
    """A run folder cannot be resumed, evaluated or exported."""
