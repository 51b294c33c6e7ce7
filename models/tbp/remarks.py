"""What a person should know about a screening, as codes with a sentence each."""

from __future__ import annotations

from dataclasses import dataclass

REMARKS: dict[str, str] = {
    "UNMEASURED": "Lesions without measurements",
    "NO_TILE": "Lesions without a tile",
    "BAD_TILE": "Tiles that cannot be decoded",
    "BLANK_TILE": "Tiles without any content",
    "NOT_ASSESSED": "Lesions that no module can judge",
    "LACKS_VALUE": "Lesions that lack a needed measurement",
    "BAD_VALUE": "Measurements that are impossible",
    "NOT_DELIVERED": "Measurements that no lesion has",
    "SCALE": "Confidences that seem to be fractions",
    "FILTERED": "Lesions taken out by the filters",
    "FILTER_SKIPPED": "Filter not applied for want of its value",
    "FEW_LESIONS": "Too few lesions for the ugly duckling",
    "NONE_ASSESSED": "No lesion was assessed",
    "DUPLICATE_ID": "Lesion identifier used by several tiles",
    "DUPLICATE_ROW": "Measurements that were sent twice",
    "ROWS_DIFFER": "Different measurements of one lesion",
    "NO_IDENTIFIER": "Measurements that name no lesion",
    "OTHER_PATIENT": "Measurements of another patient",
    "UNKNOWN_UNIT": "Measurements in an unknown unit",
    "BAD_DOCUMENT": "Document that cannot be read",
    "OUTCOME_COLUMN": "Columns that tell the outcome",
    "COLUMN_IGNORED": "Columns that are not known",
    "TOO_MANY": "More lesions than can be screened",
    "NO_SKIN_TILE": "No tile to grade photodamage from",
}
"""Code (at most 14 characters) -> its meaning (at most 64)."""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One thing to know."""

    code: str
    """Key of ``REMARKS``."""
    text: str
    """One sentence without its full stop; no patient attribute, no lesion's identifier."""

    def __post_init__(self) -> None:
        """Refuse an unknown code."""
        if self.code not in REMARKS:
            raise ValueError(f"unknown remark {self.code!r}")
