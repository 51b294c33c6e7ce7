"""The Cox model as stored arrays: from covariates to survival with its interval, in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models.errors import WeightsError

Z_95 = float(ndtri(0.975))


@dataclass(frozen=True, kw_only=True)
class CoxModel:
    """Proportional hazards model with Breslow's baseline, covariates coded about zero.

    The arrays are those of the weight file. What the baseline's variance needs is summed at
    export, so that no patient's data leave with the model.
    """

    coefficients: NDArray[np.float64]
    """(K,) log hazard ratio of one unit of each coded covariate."""
    covariance: NDArray[np.float64]
    """(K, K) covariance of the coefficients: inverse of the observed information."""
    times: NDArray[np.float64]
    """(T,) ascending event times in years."""
    hazard: NDArray[np.float64]
    """(T,) baseline cumulative hazard, of a patient whose coded covariates are all 0."""
    hazard_variance: NDArray[np.float64]
    """(T,) cumulated d / S0^2: variance of ``hazard`` for known coefficients."""
    hazard_gradient: NDArray[np.float64]
    """(T, K) cumulated mean of the covariates at risk, weighted by the hazard's steps."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other.

        Raises
        ------
        WeightsError
            Naming the arrays.
        """
        k, t = self.coefficients.shape[0], self.times.shape[0]
        shapes = {
            "coefficients": (k,),
            "covariance": (k, k),
            "times": (t,),
            "hazard": (t,),
            "hazard_variance": (t,),
            "hazard_gradient": (t, k),
        }
        wrong = [name for name, shape in shapes.items() if getattr(self, name).shape != shape]
        wrong += [
            name
            for name in ("times", "hazard", "hazard_variance")
            if name not in wrong and (np.diff(getattr(self, name), prepend=0.0) < 0).any()
        ]
        if "covariance" not in wrong and (np.linalg.eigvalsh(self.covariance) < 0).any():
            wrong.append("covariance")
        if wrong or not k or not t:
            raise WeightsError(f"impossible arrays in the Cox model: {', '.join(wrong) or 'empty'}")

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> CoxModel:
        """Build the model from the arrays of a weight file.

        Raises
        ------
        WeightsError
            If an array is missing, unknown, not finite or has the wrong shape.
        """
        names = set(cls.__dataclass_fields__)
        if set(arrays) != names:
            missing, unknown = sorted(names - set(arrays)), sorted(set(arrays) - names)
            raise WeightsError(f"Cox model: missing {missing}, unknown {unknown}")
        values = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
        not_finite = sorted(name for name, array in values.items() if not np.isfinite(array).all())
        if not_finite:
            raise WeightsError(f"Cox model: values that are not finite in {not_finite}")
        if values["coefficients"].ndim != 1 or values["times"].ndim != 1:
            raise WeightsError("Cox model: coefficients and times must have one axis")
        return cls(**values)

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the arrays of the weight file."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def linear_predictor(self, coded: NDArray[np.floating]) -> NDArray[np.float64]:
        """Log hazard ratio of each patient against the patient whose covariates are all 0.

        Parameters
        ----------
        coded
            (N, K) coded covariates.
        """
        if coded.ndim != 2 or coded.shape[1] != len(self.coefficients):
            raise ValueError(f"covariates {coded.shape}, not (N, {len(self.coefficients)})")
        return np.asarray(np.asarray(coded, np.float64) @ self.coefficients)

    def survival(
        self, coded: NDArray[np.floating], years: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Probability of being free of the event, with its 95 % interval.

        Parameters
        ----------
        coded
            (N, K) coded covariates.
        years
            (M,) times; beyond the last event the last value holds.

        Returns
        -------
        tuple of ndarray
            (N, M) survival, lower and upper end, each in [0, 1].

        Notes
        -----
        The interval is made on the scale of log(-log S) by the delta method. The variance holds
        both parts: of the baseline, and of the coefficients through their whole covariance.

        References
        ----------
        Breslow, discussion of Cox, JRSS B 34, 1972; Tsiatis, Annals of Statistics 9, 1981;
        Therneau and Grambsch, Modeling Survival Data, 2000, section 10.2 (variance).
        """
        relative = np.exp(self.linear_predictor(coded))[:, None]
        index = np.searchsorted(self.times, np.asarray(years, np.float64), "right")

        def at(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.concatenate([np.zeros((1, *values.shape[1:])), values])[index]

        hazard = at(self.hazard)
        expected = relative * hazard
        # Derivative of the patient's cumulative hazard by the coefficients, over its relative
        # hazard: covariates times hazard, minus what the baseline gives back.
        slope = np.asarray(coded, np.float64)[:, None, :] * hazard[:, None]
        slope -= at(self.hazard_gradient)
        of_coefficients = np.einsum("nmk,kl,nml->nm", slope, self.covariance, slope)
        variance = relative**2 * (at(self.hazard_variance) + of_coefficients)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.where(expected > 0, Z_95 * np.sqrt(variance) / expected, 0.0)
        low, high = np.exp(-expected * np.exp(spread)), np.exp(-expected * np.exp(-spread))
        return np.exp(-expected), low, high
