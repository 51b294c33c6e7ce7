"""Result kinds to DICOM objects: the door of this folder.

Pure: no file, socket, clock or random number. The same result and context give the same bytes. A
new result kind is one encoder module and one line below.
"""

from __future__ import annotations

from functools import singledispatch

from models.change.result import ChangeResult
from models.prognosis.result import PrognosisResult
from models.results import DiagnosisResult
from models.slide.result import SlideResult
from models.tbp.result import TbpResult
from reports.change.encode import encode_change
from reports.context import PredecessorReport, ReportContext, ReportObject, SourceImage
from reports.diagnosis.encode import encode_diagnosis
from reports.errors import UnsupportedResultError
from reports.prognosis.encode import encode_prognosis
from reports.slide.encode import encode_slides
from reports.tbp.encode import encode_tbp

__all__ = ["PredecessorReport", "ReportContext", "ReportObject", "SourceImage", "encode"]


@singledispatch
def encode(result: object, context: ReportContext) -> list[ReportObject]:
    """All DICOM objects of a result.

    Parameters
    ----------
    result
        A result kind of ``models.results``.
    context
        Sources, time, installation, generation and predecessors.

    Returns
    -------
        Objects with distinct roles and UIDs in the study of the sources, each with File Meta
        Information, in Explicit VR Little Endian.

    Raises
    ------
    UnsupportedResultError
        When no encoder is registered for the type of ``result``.
    ResultError, SourceError
        When the result or a source cannot be written.
    """
    raise UnsupportedResultError(f"no encoder for {type(result).__name__}")


encode.register(DiagnosisResult, encode_diagnosis)
encode.register(ChangeResult, encode_change)
encode.register(SlideResult, encode_slides)
encode.register(PrognosisResult, encode_prognosis)
encode.register(TbpResult, encode_tbp)
