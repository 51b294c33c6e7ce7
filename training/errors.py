"""Errors of the training layer: ``TrainingError`` and its kinds.

    TrainingError
    ├── SettingsError      a configuration file that cannot be used
    ├── CohortError        a table, its images or its splits that cannot be used
    │   └── LeakageError   one group in more than one split
    ├── SlideFileError     a slide file that cannot be read
    ├── RunError           a run folder that cannot be resumed, evaluated or exported
    └── PretrainedError    start weights that are missing or are not those that we know

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


class SlideFileError(TrainingError):
    """A slide file is missing, damaged or of a kind that no reader knows."""


class RunError(TrainingError):
    """A run folder cannot be resumed, evaluated or exported."""


class PretrainedError(TrainingError):
    """Start weights are missing, or are not the file that we know."""
