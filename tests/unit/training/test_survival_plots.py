"""The survival plots show the numbers they are given."""

import io

import numpy as np
from matplotlib.figure import Figure

from models.prognosis.survival import kaplan_meier
from training.prognosis import plots


def _render(figure: Figure) -> None:
    figure.savefig(io.BytesIO(), format="png")


def test_kaplan_meier_gives_numbers_at_risk() -> None:
    times = np.array([1.0, 2.0, 3.0, 4.0])
    curve = kaplan_meier(times, np.array([True, False, True, False]))
    figure = plots.kaplan_meier({"all": curve}, p_value=0.0001, ticks=(0, 2, 4))
    _render(figure)
    at_risk = [text.get_text() for text in figure.axes[1].texts]
    assert at_risk == ["4", "3", "1"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["log-rank p < 0.001"]
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["all (n = 4)"]


def test_kaplan_meier_of_a_group_without_events_is_flat() -> None:
    curve = kaplan_meier(np.array([1.0, 2.0]), np.array([False, False]))
    figure = plots.kaplan_meier({"none": curve})
    _render(figure)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [1.0, 1.0])


def test_calibration_draws_each_group_with_its_interval() -> None:
    figure = plots.calibration_at([(0.9, 0.8, 0.6, 0.9), (0.5, 0.4, np.nan, np.nan)], "survival")
    _render(figure)
    points = figure.axes[0].lines[1]
    np.testing.assert_array_equal(points.get_xdata(), [0.9, 0.5])
    bars = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose(bars[0], [[0.9, 0.6], [0.9, 0.9]])
    np.testing.assert_allclose(bars[1], [[0.5, 0.4], [0.5, 0.4]])


def test_incidence_begins_at_zero() -> None:
    figure = plots.incidence({"death": (np.array([1.0, 2.0]), np.array([0.1, 0.4]))})
    _render(figure)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [0.0, 0.1, 0.4])
