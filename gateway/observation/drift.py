"""How far two distributions are apart: population stability index and Kolmogorov-Smirnov. Pure."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10
"""Of the index: deciles of the reference (Siddiqi, Credit Risk Scorecards, 2006, ch. 9; his rule
of thumb: under 0.10 no change, from 0.25 on a shift that needs a look)."""
_SERIES_TERMS = 101


@dataclass(frozen=True, kw_only=True)
class Shift:
    """What lies between a reference and the newest values."""

    psi: float
    """Population stability index, 0 or more."""
    ks: float
    """Largest distance of the two distribution functions, in [0, 1]."""
    p_value: float
    """How likely so large a distance is when nothing has changed."""


def psi(reference: Sequence[float], recent: Sequence[float]) -> float:
    """Return the population stability index over the deciles of the reference.

    Shares are smoothed by half a value a bin, so that an empty bin does not make it infinite. Few
    values make a large index by chance alone: its expectation is about
    ``(bins - 1) (1/len(reference) + 1/len(recent))`` (Yurdakul, Statistical properties of the
    population stability index, 2018).

    Examples
    --------
    >>> values = [n / 100 for n in range(100)]
    >>> round(psi(values, values), 6)
    0.0
    >>> psi(values, [value + 0.5 for value in values]) > 0.25
    True
    """
    ordered = sorted(reference)
    edges = sorted({ordered[len(ordered) * each // BINS] for each in range(1, BINS)})
    # The lowest value as an edge would leave a bin that no reference value can be in.
    edges = [edge for edge in edges if edge > ordered[0]] or [math.nextafter(ordered[0], math.inf)]
    expected, actual = _shares(ordered, edges), _shares(recent, edges)
    return sum((a - e) * math.log(a / e) for a, e in zip(actual, expected, strict=True))


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    counts = [0.5] * (len(edges) + 1)
    for value in values:
        counts[bisect.bisect_right(edges, value)] += 1
    total = sum(counts)
    return [count / total for count in counts]


def ks(reference: Sequence[float], recent: Sequence[float]) -> tuple[float, float]:
    """Return (statistic, p value) of the two-sample Kolmogorov-Smirnov test.

    The p value is the asymptotic one with the correction of Stephens (1970), as in Press et al.,
    Numerical Recipes, 14.3; with ties, as between scores that were rounded, it is too large, which
    errs on the side of no alarm.

    Examples
    --------
    >>> ks([0.0, 1.0], [0.0, 1.0])
    (0.0, 1.0)
    """
    first, second = sorted(reference), sorted(recent)
    distance = max(
        abs(
            bisect.bisect_right(first, at) / len(first)
            - bisect.bisect_right(second, at) / len(second)
        )
        for at in (*first, *second)
    )
    size = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    return distance, _survival((size + 0.12 + 0.11 / size) * distance)


def _survival(scaled: float) -> float:
    """Return Kolmogorov's Q(x) = 2 sum (-1)^(j-1) exp(-2 j^2 x^2)."""
    if scaled < 0.2:  # the series converges too slowly there, and Q is 1 to 12 digits
        return 1.0
    terms = (
        (1.0 if j % 2 else -1.0) * math.exp(-2 * j * j * scaled * scaled)
        for j in range(1, _SERIES_TERMS)
    )
    return min(1.0, max(0.0, 2 * sum(terms)))


def shift(reference: Sequence[float], recent: Sequence[float]) -> Shift:
    """Compare the newest values with a reference; both must hold values."""
    distance, p_value = ks(reference, recent)
    return Shift(psi=psi(reference, recent), ks=distance, p_value=p_value)
