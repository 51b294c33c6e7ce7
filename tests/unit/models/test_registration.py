import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.change.registration import (
    Registration,
    RegistrationFailure,
    RegistrationSettings,
    find_motion,
    fit_motion,
    overlap_share,
    register,
)

SETTINGS = RegistrationSettings()


def skin(seed: int, shape: tuple[int, int] = (240, 320)) -> NDArray[np.uint8]:
    """Blurred spots: something to hold on to."""
    rng = np.random.default_rng(seed)
    image = np.full((*shape, 3), (200, 160, 140), np.uint8)
    for _ in range(120):
        centre = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
        colour = tuple(int(v) for v in rng.integers(40, 160, 3))
        axes = tuple(int(v) for v in rng.integers(3, 12, 2))
        cv2.ellipse(image, centre, axes, int(rng.integers(180)), 0, 360, colour, -1)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.5), np.uint8)


def moved(
    image: NDArray[np.uint8], angle: float, shift: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    matrix[:, 2] += shift
    turned = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.uint8), np.asarray(cv2.invertAffineTransform(matrix))


@pytest.mark.parametrize("shape", [(240, 320), (480, 640)])
def test_a_known_motion_is_found(shape: tuple[int, int]) -> None:
    image = skin(0, shape)
    second, expected = moved(image, 7.0, (9.0, -5.0))
    found = register(image, second, SETTINGS)
    assert isinstance(found, Registration)
    corners = np.array([[0, 0, 1], [shape[1], 0, 1], [0, shape[0], 1], [shape[1], shape[0], 1]])
    assert np.abs(corners @ (found.matrix - expected).T).max() < 1.0
    assert found.rotation_deg == pytest.approx(7.0, abs=0.2)
    assert np.linalg.det(found.matrix[:, :2]) == pytest.approx(1)
    assert found.inliers > 50
    assert found.residual_px < 1.5
    assert 0.8 < found.overlap < 1


def test_an_identical_image_does_not_move() -> None:
    found = register(skin(1), skin(1), SETTINGS)
    assert isinstance(found, Registration)
    np.testing.assert_allclose(found.matrix, np.eye(2, 3), atol=1e-6)
    assert found.overlap == pytest.approx(1)


@pytest.mark.parametrize(
    "second",
    [skin(2)[:, ::-1], skin(3), np.full((240, 320, 3), 128, np.uint8)],
    ids=["mirrored", "other lesion", "blank"],
)
def test_what_does_not_fit_is_refused_with_a_reason(second: NDArray[np.uint8]) -> None:
    found = register(skin(2), np.ascontiguousarray(second), SETTINGS)
    assert isinstance(found, RegistrationFailure)
    assert found.reason in ("too few key points", "too few inliers")


def test_little_overlap_is_refused() -> None:
    wide = skin(4, (240, 700))
    first, second = wide[:, :320], wide[:, 230:550]
    found = register(first, second, RegistrationSettings(min_overlap=0.5))
    assert isinstance(found, RegistrationFailure)
    assert found.reason == "too little overlap"


def test_the_same_pair_gives_the_same_motion() -> None:
    second, _ = moved(skin(5), -12, (4, 4))
    first, again = (register(skin(5), second, SETTINGS) for _ in range(2))
    assert isinstance(first, Registration)
    assert isinstance(again, Registration)
    assert (first.matrix == again.matrix).all()


def test_the_fit_is_the_least_squares_rotation() -> None:
    """Oracle: the best of all angles tried one by one, the shift being that of the centres."""
    rng = np.random.default_rng(0)
    source = rng.normal(0, 30, (20, 2))
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = source @ turn.T + np.array([5, -2]) + rng.normal(0, 1, (20, 2))

    def cost(theta: float) -> float:
        rotation = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
        centred = (source - source.mean(0)) @ rotation.T - (target - target.mean(0))
        return float((centred**2).sum())

    angles = np.linspace(0.2, 0.4, 20001)
    best = angles[np.argmin([cost(theta) for theta in angles])]
    found = fit_motion(source, target)
    assert np.arctan2(found[1, 0], found[0, 0]) == pytest.approx(best, abs=2e-5)
    np.testing.assert_allclose(
        found[:, :2] @ source.mean(0) + found[:, 2], target.mean(0), atol=1e-9
    )


def test_outliers_do_not_pull() -> None:
    rng = np.random.default_rng(1)
    source = rng.uniform(0, 300, (200, 2))
    target = source + np.array([20, 10])
    target[:120] = rng.uniform(0, 300, (120, 2))
    found = find_motion(source, target, SETTINGS)
    assert found is not None
    np.testing.assert_allclose(found[0], [[1, 0, 20], [0, 1, 10]], atol=0.05)
    assert found[1][120:].all()
    assert found[1].sum() < 90
    assert find_motion(source[:1], target[:1], SETTINGS) is None


def test_overlap_is_a_share_of_the_first_image() -> None:
    half = np.array([[1.0, 0, 50], [0, 1, 0]])
    assert overlap_share(half, (80, 100), (80, 100)) == pytest.approx(0.5)
    assert overlap_share(np.eye(2, 3), (80, 100), (40, 100)) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [{"residual_px": 0}, {"confidence": 1}, {"min_overlap": 2}])
def test_impossible_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        RegistrationSettings(**values)  # type: ignore[arg-type]
