"""Arrays in, typed results out: networks, preprocessing, calibration, metrics."""
