import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.calibration import (
    brier_score,
    calibrate,
    expected_calibration_error,
    fit_temperature,
)


def sampled(temperature: float, count: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``temperature`` times too large for the labels drawn from them."""
    rng = np.random.default_rng(0)
    true_logits = rng.normal(0, 1.5, (count, 4))
    cumulative = calibrate(true_logits, 1.0).cumsum(axis=1)
    labels = (rng.random((count, 1)) > cumulative).sum(axis=1)
    return true_logits * temperature, np.minimum(labels, 3)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_hidden_is_found(temperature: float) -> None:
    logits, labels = sampled(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.08)


def test_calibration_lowers_the_error_of_an_overconfident_model() -> None:
    logits, labels = sampled(4.0)
    before = expected_calibration_error(calibrate(logits, 1.0), labels)
    after = expected_calibration_error(calibrate(logits, fit_temperature(logits, labels)), labels)
    assert before > 0.15
    assert after < 0.03


@given(arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)), st.floats(0.05, 20))
def test_probabilities_sum_to_one_and_keep_the_order(logits: np.ndarray, t: float) -> None:
    probabilities = calibrate(logits, t)
    assert np.isfinite(probabilities).all()
    assert probabilities.sum(axis=1) == pytest.approx(1)
    best = probabilities[np.arange(3), logits.argmax(axis=1)]
    assert (best == probabilities.max(axis=1)).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        calibrate(np.zeros(3), temperature)


def test_no_labels_give_no_temperature() -> None:
    with pytest.raises(ValueError, match="labels"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64))


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [1.0, 0.0]])
    labels = np.array([0, 1, 1, 0])
    # bins of 1/15: {0.9, 0.9} accuracy 0.5; {0.7} accuracy 1; {1.0} accuracy 1
    expected = (2 * abs(0.9 - 0.5) + abs(0.7 - 1) + 0) / 4
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_brier_score_by_hand() -> None:
    probabilities = np.array([[0.8, 0.2], [0.5, 0.5]])
    assert brier_score(probabilities, np.array([0, 1])) == pytest.approx((0.08 + 0.5) / 2)
    assert brier_score(np.eye(2), np.array([1, 0])) == 2
