"""Errors of the report layer: ``ReportError`` and its kinds.

    ReportError
    ├── UnsupportedResultError  no encoder for this result kind
    ├── ResultError             a result that contradicts itself (a probability above 1, no image)
    ├── SourceError             a source instance that is missing, or does not fit the result
    └── ContextError            a context that cannot be dated or numbered

Messages carry attribute keywords, positions, shapes and class names, never an attribute's value.
"""


class ReportError(Exception):
    """A result cannot be written as DICOM objects."""


class UnsupportedResultError(ReportError):
    """There is no encoder for this result kind."""


class ResultError(ReportError):
    """The result contradicts itself."""


class SourceError(ReportError):
    """A source instance is missing, unidentified or does not fit the result."""


class ContextError(ReportError):
    """The context of the report is incomplete or malformed."""
