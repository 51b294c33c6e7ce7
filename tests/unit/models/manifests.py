"""Manifests for tests."""

from typing import Any

from models.diagnosis import ArchitectureSpec, DiagnosisManifest
from models.manifest import HeldOutFigure, InputSpec
from models.shapes import EncoderShape, VitPyramidShape


def manifest(**changes: Any) -> DiagnosisManifest:
    values: dict[str, Any] = {
        "name": "diagnosis",
        "version": "1.2.3",
        "digest": "0" * 64,
        "labels": {"NV": "Nevus", "MEL": "Melanoma", "BCC": "Basal cell carcinoma"},
        "malignant_labels": ("MEL", "BCC"),
        "input": InputSpec(
            size=64,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            interpolation="bilinear-antialiased",
            framing="whole image",
        ),
        "architecture": ArchitectureSpec(
            backbone=VitPyramidShape(
                encoder=EncoderShape(dim=16, depth=2, heads=2, image_size=64),
                prior_width=4,
                taps=(0,),
            ),
            decoder_width=8,
            flips=False,
        ),
        "temperature": 2.0,
        "lesion_threshold": 0.5,
        "operating_point": 0.4,
        "operating_point_meaning": "chosen for this test",
        "ood_threshold": 10.0,
        "ood_threshold_meaning": "chosen for this test",
        "data": "none",
        "licence": "none",
        "citation": "none",
        "intended_use": "tests",
        "training_command": "none",
        "git_commit": "none",
        "created": "2025-01-31",
        "evidence_level": "real",
        "evidence": "none",
        "figures": (
            HeldOutFigure(
                metric="accuracy",
                data="nothing",
                value=0.5,
                low=0.4,
                high=0.6,
                n=10,
                groups=8,
                command="none",
            ),
        ),
    }
    return DiagnosisManifest(**(values | changes))
