"""A manifest of TBP screening and a lesion that passes every filter."""

from models.tbp.lesions import (
    PHOTODAMAGE_GRADES,
    FusionThresholds,
    TbpManifest,
    TileFilters,
    UglyDucklingSettings,
)
from models.tbp.measurements import NAMES


def measured_row() -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(NAMES, 20.0)
    row |= {
        "location_simple": "Torso Back",
        "eccentricity": 0.5,
        "norm_border": 3,
        "norm_color": 4,
        "symm_2axis": 0.2,
        "dnn_lesion_confidence": 99,
        "nevi_confidence": 90,
    }
    return row


def tbp_manifest() -> TbpManifest:
    return TbpManifest(
        name="tbp_screening",
        version="1.0.0",
        digest="0" * 64,
        data="drawn",
        licence="none",
        citation="none",
        intended_use="tests",
        training_command="none",
        git_commit="none",
        created="2025-11-21",
        evidence_level="none",
        evidence="none",
        figures=(),
        measurements=NAMES,
        optional_measurements=("dnn_lesion_confidence",),
        trained_measurements=NAMES,
        filters=TileFilters(),
        ugly_duckling=UglyDucklingSettings(),
        thresholds=FusionThresholds(risk=0.5, trees=0.5),
        thresholds_meaning="tests",
        nevus_threshold=0.5,
        photodamage_grades=PHOTODAMAGE_GRADES,
        embedding_dim=6,
        encoder_digest="0" * 64,
    )
