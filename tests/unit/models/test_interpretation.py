import numpy as np
import pytest
from manifests import manifest

from models.diagnosis import (
    REFUSAL_FACTOR,
    Interpretation,
    interpret,
    rank_labels,
)
from models.errors import OutputError
from models.quality import Reason, Remark
from models.results import ImageQuality


def spot() -> np.ndarray:
    prob = np.zeros((64, 64), np.uint8)
    prob[16:48, 20:40] = 255
    return prob


def interpreted(**changes) -> Interpretation:
    values = {
        "logits": np.array([0.0, 2.0, -2.0], np.float32),
        "lesion_prob": spot(),
        "ood_score": 3.0,
        "shape": (120, 160),
        "quality": ImageQuality(warnings=("soft focus",)),
        "manifest": manifest(),
    }
    return interpret(**(values | changes))


def test_the_differential_is_calibrated_and_sorted() -> None:
    found = interpreted()
    weights = np.exp(np.array([0.0, 1.0, -1.0]))  # temperature 2
    expected = weights / weights.sum()
    assert [line.label for line in found.differential] == ["MEL", "NV", "BCC"]
    assert found.differential[0].probability == pytest.approx(expected[1])
    assert sum(line.probability for line in found.differential) == pytest.approx(1)
    assert found.malignancy_prob == pytest.approx(expected[1] + expected[2])
    assert found.is_suspicious is True
    assert found.quality.warnings == ("soft focus",)
    assert found.region is not None
    assert found.region.mask.shape == (120, 160)


def test_the_operating_point_itself_is_suspicious() -> None:
    _, malignancy = rank_labels(np.array([0.0, 2.0, -2.0]), manifest())
    assert interpreted(manifest=manifest(operating_point=malignancy)).is_suspicious is True
    above = float(np.nextafter(malignancy, 1))
    assert interpreted(manifest=manifest(operating_point=above)).is_suspicious is False


def test_equal_probabilities_keep_the_order_of_the_manifest() -> None:
    found = interpreted(logits=np.zeros(3, np.float32))
    assert [line.label for line in found.differential] == ["NV", "MEL", "BCC"]


def test_an_image_unlike_the_training_data_is_not_assessed() -> None:
    assert interpreted(ood_score=10.0 * REFUSAL_FACTOR).quality.is_assessable
    found = interpreted(ood_score=10.01 * REFUSAL_FACTOR)
    assert found.quality.reasons == (Reason.OUT_OF_DISTRIBUTION,)
    assert found.quality.warnings == ("soft focus",)
    assert found.differential == ()
    assert found.malignancy_prob is None
    assert found.is_suspicious is None
    assert found.region is None


def test_an_image_unlike_most_of_the_training_data_is_assessed_with_a_warning() -> None:
    assert Remark.FAR_FROM_TRAINING not in interpreted(ood_score=10.0).quality.warnings
    found = interpreted(ood_score=10.01)
    assert found.quality.warnings == ("soft focus", Remark.FAR_FROM_TRAINING)
    assert found.differential == interpreted(ood_score=10.0).differential != ()


def test_bad_quality_stays_the_first_reason() -> None:
    quality = ImageQuality(reasons=("image almost uniform",))
    found = interpreted(quality=quality)
    assert found.quality == quality
    assert found.differential == ()
    both = interpreted(quality=quality, ood_score=99.0)
    assert both.quality.reasons == ("image almost uniform", Reason.OUT_OF_DISTRIBUTION)


def test_no_lesion_is_a_remark_beside_the_differential() -> None:
    found = interpreted(lesion_prob=np.zeros((64, 64), np.uint8))
    assert found.region is None
    assert Remark.NO_LESION in found.quality.warnings
    assert len(found.differential) == 3


@pytest.mark.parametrize("huge", [1e4, -1e4])
def test_extreme_logits_stay_probabilities(huge: float) -> None:
    found = interpreted(logits=np.array([0, huge, 0], np.float32))
    assert found.malignancy_prob is not None
    assert 0 <= found.malignancy_prob <= 1
    assert all(0 <= line.probability <= 1 for line in found.differential)


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": np.zeros(4, np.float32)},
        {"logits": np.zeros((1, 3), np.float32)},
        {"logits": np.array([0, np.nan, 0], np.float32)},
        {"logits": np.array([0, np.inf, 0], np.float32)},
        {"ood_score": float("nan")},
        {"lesion_prob": np.zeros((32, 64), np.uint8)},
        {"lesion_prob": np.zeros((64, 64), np.float32)},
    ],
    ids=range(7),
)
def test_outputs_the_manifest_does_not_promise_are_errors(changes) -> None:
    with pytest.raises(OutputError):
        interpreted(**changes)
