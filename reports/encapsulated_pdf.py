"""A PDF page as Encapsulated PDF, which OHIF and most PACS show even where an image is unknown."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from models.results import ModelIdentity
from reports import coding
from reports.coding import Concept, shorten
from reports.context import ReportContext
from reports.errors import ResultError
from reports.provenance import (
    file_meta,
    observed_at,
    result_uids,
    series_description,
    series_number,
    stamp,
)
from reports.source import Source

_SERIES_NUMBER_KIND = 7
_ST_LENGTH = 1024  # PS3.5 6.2


def encapsulated_pdf(
    pdf: bytes,
    *,
    source: Source,
    role: str,
    number: int,
    title: str,
    model: ModelIdentity,
    context: ReportContext,
    concept: Concept = coding.IMAGING_MEASUREMENT_REPORT,
) -> Dataset:
    """One PDF as a DICOM object in a series of its own.

    Parameters
    ----------
    pdf
        The file, from ``%PDF`` on; the same bytes give the same object.
    source
        The instance that it speaks of; patient and study are its own.
    role
        Role of the object, e.g. ``page-1``; unique within the result.
    number
        Number of the page's series in the result, 1-based.
    title
        Document Title, and what the series holds; no patient attribute.
    model
        The model whose result is shown.
    context
        Time, installation and generation.
    concept
        Concept of the document title.

    Raises
    ------
    ResultError
        When ``pdf`` is none.

    References
    ----------
    PS3.3 A.45.1 (IOD), C.24.1 (Encapsulated Document Series), C.24.2 (Encapsulated Document).
    """
    if not pdf.startswith(b"%PDF-"):
        raise ResultError("the document is no PDF")
    uid = result_uids(source, model, context)
    ds = Dataset()
    ds.SOPClassUID = EncapsulatedPDFStorage
    ds.SOPInstanceUID = uid(role)
    ds.SeriesInstanceUID = uid(f"{role}/series")
    ds.SeriesNumber = series_number(_SERIES_NUMBER_KIND, number)
    ds.SeriesDescription = series_description(title, context)
    ds.InstanceNumber = number
    ds.Modality = "DOC"
    ds.ConversionType = "SYN"  # made, not digitised (PS3.3 C.8.6.1)
    ds.BurnedInAnnotation = "YES"
    stamp(ds, [source], context)
    ds.AcquisitionDateTime = observed_at(context, source).strftime("%Y%m%d%H%M%S")
    ds.DocumentTitle = shorten(title, _ST_LENGTH)
    ds.ConceptNameCodeSequence = [concept.as_item()]
    ds.VerificationFlag = "UNVERIFIED"
    ds.SourceInstanceSequence = [_reference(source)]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)  # even length, PS3.5 7.1.1
    ds.EncapsulatedDocumentLength = len(pdf)
    if concept.scheme == coding.PRIVATE_SCHEME:
        ds.CodingSchemeIdentificationSequence = [coding.coding_scheme_item()]
    ds.file_meta = file_meta(ds)
    return ds


def _reference(source: Source) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.sop_class_uid
    item.ReferencedSOPInstanceUID = source.sop_instance_uid
    return item
