"""What the served heads and trees say of lesions, and of skin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.tbp.measurements import NAMES, MeasurementTable
from models.tbp.patient import LesionAnswers
from workers.analysis import Tools
from workers.errors import BadModelOutput

BATCH = 1024
"""Most lesions in one request."""
_WIDTHS = {"RISK": 1, "NEVUS": 1, "MALIGNANT_TREES": 1, "PHOTODAMAGE": 3}


def ask_about_lesions(
    features: NDArray[np.float32], table: MeasurementTable, tools: Tools
) -> LesionAnswers:
    """Ask heads and trees about N lesions.

    Parameters
    ----------
    features
        (N, D); a row of nan for a lesion without a tile.
    table
        Their measurements.
    """
    has_tile = np.asarray(np.isfinite(features).all(axis=1))
    # The heads get zeros where there is no tile, and what they say of it is dropped.
    found = _ask(np.where(has_tile[:, None], features, np.float32(0)), table.values, tools)
    return LesionAnswers(
        embeddings=features,
        risk=np.where(has_tile, found["RISK"][:, 0], np.nan),
        nevus=np.where(has_tile, found["NEVUS"][:, 0], np.nan),
        trees=found["MALIGNANT_TREES"][:, 0].astype(np.float64),
    )


def ask_about_skin(features: NDArray[np.float32], tools: Tools) -> NDArray[np.float64]:
    """Probabilities of the grades of photodamage, (M, 3), for tiles that show enough skin."""
    usable = features[np.isfinite(features).all(axis=1)]
    if not len(usable):
        return np.empty((0, _WIDTHS["PHOTODAMAGE"]))
    nothing = np.full((len(usable), len(NAMES)), np.nan, np.float32)
    return _ask(usable, nothing, tools)["PHOTODAMAGE"].astype(np.float64)


def _ask(
    features: NDArray[np.float32], measurements: NDArray[np.float32], tools: Tools
) -> dict[str, NDArray[np.float32]]:
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in _WIDTHS}
    for first in range(0, len(features), BATCH):
        tools.checkpoint()
        chosen = slice(first, first + BATCH)
        outputs = tools.models.infer(
            tools.served.name,
            {"EMBEDDING": features[chosen], "MEASUREMENTS": measurements[chosen]},
        )
        count = len(features[chosen])
        for name, width in _WIDTHS.items():
            output = outputs.get(name)
            if output is None or output.shape != (count, width):
                shape = None if output is None else output.shape
                raise BadModelOutput(
                    f"the model {tools.served.name} sent {name} of shape {shape}, not "
                    f"{(count, width)}"
                )
            if not ((output >= 0) & (output <= 1)).all():
                raise BadModelOutput(f"the model {tools.served.name} sent {name} beyond [0, 1]")
            parts[name].append(np.asarray(output, np.float32))
    return {name: np.concatenate(each) for name, each in parts.items()}
