"""The plots show the numbers they are given."""

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

from training import plots

NAMES = ("NV", "MEL", "BKL")
RNG = np.random.default_rng(4)
LABELS = RNG.integers(0, 3, 90)
PROBABILITIES = RNG.dirichlet(np.ones(3), 90)


def _render(figure: Figure) -> None:
    figure.savefig(io.BytesIO(), format="png")


def _texts(figure: Figure) -> str:
    legends = [
        text.get_text()
        for axes in figure.axes
        if axes.get_legend() is not None
        for text in axes.get_legend().get_texts()
    ]
    return "\n".join(legends + [text.get_text() for axes in figure.axes for text in axes.texts])


def test_importing_the_plots_touches_no_global_state() -> None:
    code = "import sys, training.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_learning_curves_put_each_kind_on_its_own_axes() -> None:
    history = [
        {"epoch": e, "train_loss": 1 / e, "macro_auroc": 0.5, "learning_rate": 0.1, "seconds": 9.0}
        for e in (1, 2, 3)
    ]
    history[1]["train_loss"] = float("nan")
    figure = plots.learning_curves(history)
    _render(figure)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "figure", "learning rate"]
    drawn = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, [1.0, np.nan, 1 / 3])


def test_learning_curves_of_no_epoch_say_so() -> None:
    figure = plots.learning_curves([])
    _render(figure)
    assert "no epoch" in _texts(figure)


def test_roc_legend_gives_area_and_interval() -> None:
    figure = plots.roc_curves(LABELS, PROBABILITIES, NAMES, intervals={"MEL": (0.4, 0.6)})
    _render(figure)
    area = roc_auc_score(LABELS == 1, PROBABILITIES[:, 1])
    assert f"MEL {area:.3f} (0.400 to 0.600)" in _texts(figure)
    assert len(figure.axes[0].lines) == 4  # three labels and the diagonal


def test_curves_leave_out_absent_labels_and_the_mirror_image() -> None:
    absent = plots.roc_curves(np.zeros(5, int), np.full((5, 3), 1 / 3), NAMES)
    two = plots.pr_curves(LABELS % 2, PROBABILITIES[:, :2], NAMES[:2])
    for figure in (absent, two):
        _render(figure)
    assert len(absent.axes[0].lines) == 1
    average = average_precision_score(LABELS % 2, PROBABILITIES[:, 1])
    assert _texts(two) == f"MEL {average:.3f}"


def test_curves_refuse_arrays_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="names"):
        plots.roc_curves(LABELS, PROBABILITIES, NAMES[:2])


def test_reliability_counts_every_image_once() -> None:
    figure = plots.reliability(PROBABILITIES, LABELS)
    _render(figure)
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 90


def test_reliability_of_one_event_shows_its_share() -> None:
    probability = np.array([0.25] * 4 + [1.0] * 2)
    figure = plots.reliability(probability, np.array([1, 0, 0, 0, 1, 1]))
    _render(figure)
    np.testing.assert_allclose(figure.axes[0].lines[1].get_xdata(), [0.25, 1.0])
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [0.25, 1.0])


def test_confusion_counts_truth_by_row() -> None:
    found = np.eye(3)[[0, 1, 1, 2]]
    figure = plots.confusion(np.array([0, 1, 2, 2]), found, NAMES)
    _render(figure)
    counts = [int(text.get_text()) for text in figure.axes[0].texts]
    assert counts == [1, 0, 0, 0, 1, 0, 0, 1, 1]


def test_decision_curve_draws_each_model_and_its_interval() -> None:
    positive, thresholds = LABELS == 1, np.array([0.1, 0.5])
    models = {"old": PROBABILITIES[:, 1], "new": PROBABILITIES[:, 2]}
    band = (np.zeros(2), np.ones(2))
    figure = plots.decision_curve(positive, models, thresholds=thresholds, interval=band)
    _render(figure)
    assert _texts(figure).split("\n") == ["act on all", "act on none", "old", "new"]
    assert len(figure.axes[0].collections) == 1


def test_forest_writes_each_estimate_with_its_interval() -> None:
    figure = plots.forest(["a", "b"], [1.5, 2.0], [1.0, float("nan")], [2.0, float("nan")])
    _render(figure)
    right = figure.axes[0].child_axes[0]
    labels = [tick.get_text() for tick in right.get_yticklabels()]
    assert labels == ["1.50 (1.00 to 2.00)", "2.00"]
    assert figure.axes[0].get_ylim() == (1.5, -0.5)
