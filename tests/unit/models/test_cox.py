"""The Cox model's arithmetic beside loops, lifelines, and its limiting cases."""

import numpy as np
import pytest
from lifelines import CoxPHFitter
from pandas import DataFrame

from models.errors import WeightsError
from models.prognosis.cox import Z_95, CoxModel


def _fit(seed: int = 0, count: int = 80) -> tuple[CoxPHFitter, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coded = np.column_stack([rng.normal(size=count), rng.random(count) < 0.4]).astype(float)
    death = rng.exponential(6 * np.exp(-coded @ [0.7, 0.5]))
    end = rng.uniform(1, 12, count)
    times, has_event = np.minimum(death, end), death <= end
    frame = DataFrame({"a": coded[:, 0], "b": coded[:, 1], "t": times, "e": has_event})
    return CoxPHFitter().fit(frame, "t", "e"), times, has_event, coded


def _naive(fitter: CoxPHFitter, times, has_event, coded) -> CoxModel:
    """Breslow's baseline and the sums of its variance, patient by patient."""
    beta = fitter.params_.to_numpy()
    hazard, variance, gradient = 0.0, 0.0, np.zeros(2)
    rows: list[tuple[float, float, float, np.ndarray]] = []
    for t in sorted(set(times[has_event])):
        total, first = 0.0, np.zeros(2)
        for time, row in zip(times, coded, strict=True):
            if time >= t:
                total += np.exp(row @ beta)
                first = first + np.exp(row @ beta) * row
        deaths = sum(has_event & (times == t))
        hazard += deaths / total
        variance += deaths / total**2
        gradient = gradient + deaths / total * first / total
        rows.append((t, hazard, variance, gradient))
    at, hazards, variances, gradients = zip(*rows, strict=True)
    return CoxModel(
        coefficients=beta,
        covariance=fitter.variance_matrix_.to_numpy(),
        times=np.array(at),
        hazard=np.array(hazards),
        hazard_variance=np.array(variances),
        hazard_gradient=np.array(gradients),
    )


def test_survival_is_that_of_lifelines() -> None:
    fitter, times, has_event, coded = _fit()
    model = _naive(fitter, times, has_event, coded)
    years = model.times[[3, 15, 30]]  # between event times lifelines interpolates
    theirs = fitter.predict_survival_function(DataFrame(coded, columns=["a", "b"]), times=years)
    survival, low, high = model.survival(coded, years)
    np.testing.assert_allclose(survival, theirs.to_numpy().T, rtol=1e-6)
    assert ((low >= 0) & (low < survival) & (survival < high) & (high <= 1)).all()


def test_interval_is_the_delta_method_written_out() -> None:
    fitter, times, has_event, coded = _fit(1)
    model = _naive(fitter, times, has_event, coded)
    year, row = 4.0, coded[3]
    step = np.flatnonzero(model.times <= year)[-1]
    relative = np.exp(row @ model.coefficients)
    expected = relative * model.hazard[step]

    def log_hazard(beta: np.ndarray) -> float:
        """Log cumulative hazard of the patient as a function of the coefficients alone."""
        total = 0.0
        for t in model.times[: step + 1]:
            total += sum(has_event & (times == t)) / np.exp(coded[times >= t] @ beta).sum()
        return float(np.log(total) + row @ beta)

    nudge = 1e-5
    gradient = np.array(
        [
            (log_hazard(model.coefficients + e) - log_hazard(model.coefficients - e)) / (2 * nudge)
            for e in np.eye(2) * nudge
        ]
    )
    variance = model.hazard_variance[step] / model.hazard[step] ** 2
    variance += gradient @ model.covariance @ gradient
    _, low, high = model.survival(row[None], np.array([year]))
    spread = np.exp(Z_95 * np.sqrt(variance))
    assert low[0, 0] == pytest.approx(np.exp(-expected * spread), rel=1e-5)
    assert high[0, 0] == pytest.approx(np.exp(-expected / spread), rel=1e-5)


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    row, year, hits = np.array([[0.5, 1.0]]), 3.0, 0
    truth = np.exp(-year / 6 * np.exp(0.5 * 0.7 + 0.5))
    for seed in range(60):
        fitted = _fit(seed)
        _, low, high = _naive(*fitted).survival(row, np.array([year]))
        hits += bool(low[0, 0] <= truth <= high[0, 0])
    assert 52 <= hits <= 60


def test_before_the_first_event_survival_is_certain() -> None:
    model = _naive(*_fit())
    survival, low, high = model.survival(np.zeros((1, 2)), np.array([0.0]))
    assert survival[0, 0] == low[0, 0] == high[0, 0] == 1


def test_arrays_survive_the_weight_file() -> None:
    model = _naive(*_fit())
    again = CoxModel.from_arrays(model.to_arrays())
    np.testing.assert_array_equal(again.hazard_gradient, model.hazard_gradient)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("coefficients", np.zeros(3)),
        ("covariance", -np.eye(2)),
        ("times", np.array([3.0, 2.0])),
        ("hazard", np.array([0.1, np.nan])),
        ("hazard_gradient", np.zeros((2, 3))),
        ("hazard_variance", None),
        ("more", np.zeros(1)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, value: np.ndarray | None) -> None:
    arrays = {
        "coefficients": np.zeros(2),
        "covariance": np.eye(2),
        "times": np.array([1.0, 2.0]),
        "hazard": np.array([0.1, 0.2]),
        "hazard_variance": np.array([0.1, 0.2]),
        "hazard_gradient": np.zeros((2, 2)),
    }
    CoxModel.from_arrays(arrays)
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(WeightsError):
        CoxModel.from_arrays(arrays)


def test_covariates_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="covariates"):
        _naive(*_fit()).linear_predictor(np.zeros((1, 3)))
