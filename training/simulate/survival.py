"""Simulated patients for trying the prognosis recipe: no patient behind any row."""

from __future__ import annotations

import csv
import io

import numpy as np

LOG_HAZARD_RATIOS = {"thickness_doubling": 0.5, "ulceration": 0.6, "male": 0.3}


def simulate_table(count: int, seed: int) -> str:
    """CSV text of simulated melanoma patients, in the columns of the Danish cohort.

    Parameters
    ----------
    count
        Patients.
    seed
        The same seed gives the same patients.

    Notes
    -----
    Death from melanoma follows an exponential model with ``LOG_HAZARD_RATIOS``; other deaths
    (1.5 % a year) and the end of the study (uniform over 3 to 12 years) end the follow-up.
    """
    rng = np.random.default_rng(seed)
    thickness = np.clip(np.exp(rng.normal(0.6, 0.8, count)), 0.1, 17).round(2)
    ulcer = rng.random(count) < 0.2 + 0.3 * (thickness > 2)
    male = rng.random(count) < 0.4
    age = np.clip(rng.normal(53, 16, count), 15, 95).round()
    log_hazard = LOG_HAZARD_RATIOS["thickness_doubling"] * (np.log2(thickness) - 1)
    log_hazard += LOG_HAZARD_RATIOS["ulceration"] * ulcer + LOG_HAZARD_RATIOS["male"] * male
    death = rng.exponential(1 / (0.045 * np.exp(log_hazard)))
    other, end = rng.exponential(1 / 0.015, count), rng.uniform(3, 12, count)
    time = np.minimum(np.minimum(death, other), end)
    status = np.where(time == death, 1, np.where(time == other, 3, 2))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rownames", "time", "status", "sex", "age", "thickness", "ulcer"])
    columns = (np.ceil(time * 365.25), status, male, age, thickness, ulcer)
    for number, row in enumerate(zip(*columns, strict=True), start=1):
        days, how, sex, years, millimetres, is_ulcerated = row
        writer.writerow([number, int(days), how, int(sex), years, millimetres, int(is_ulcerated)])
    return text.getvalue()
