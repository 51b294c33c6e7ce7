"""Two images of one lesion compared: preparation, registration, growth, probability. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.change.overlay import common_frames
from models.change.pair import ChangeManifest, change_probability, measure_growth
from models.change.preparation import PreparedImage, PreparedPair, prepare_pair
from models.change.registration import Registration, register
from models.change.result import Alignment, Comparison, NotAssessed, Reason, TimePoint
from models.errors import ImageError
from models.preprocessing import prepare_image
from workers.analysis import Tools
from workers.change.images import LesionImage
from workers.encoding import content_key
from workers.errors import BadModelOutput
from workers.ports import Tensors

_SIDES = ("earlier", "later")
_FAILURES = {
    "too few key points": NotAssessed(
        reason=Reason.KEY_POINTS,
        text="the images show too few landmarks to be brought together",
    ),
    "too few inliers": NotAssessed(
        reason=Reason.NOT_REGISTERED,
        text="the images could not be brought together: another lesion, or too different in "
        "focus, light or scale",
    ),
    "too little overlap": NotAssessed(
        reason=Reason.OVERLAP, text="the images show too little of the same skin"
    ),
}
_MIRRORED = NotAssessed(reason=Reason.MIRRORED, text="one image is the mirror image of the other")
_OTHER_LESION = NotAssessed(
    reason=Reason.OTHER_LESION,
    text="nothing but the body site links the images, and they do not match well enough to be "
    "sure of one lesion",
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A pair on its way through encoder and head."""

    comparison: Comparison
    prepared: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None
    """(S, S, 3) each; None when the pair is not assessed."""

    @property
    def is_prepared(self) -> bool:
        """Whether the network can be asked."""
        return self.prepared is not None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One image of a pair, with its place in time."""

    image: LesionImage
    point: TimePoint


def prepare(
    before: Side, after: Side, manifest: ChangeManifest, *, needs_good: bool, with_frames: bool
) -> Pair:
    """Bring two images together; what forbids it is the outcome.

    Parameters
    ----------
    needs_good
        Whether only a registration beyond doubt makes them images of one lesion.
    with_frames
        Whether the originals are laid into one frame for the eye.
    """
    comparison = Comparison(before=before.point, after=after.point)
    for side, name in zip((before, after), _SIDES, strict=True):
        if side.image.problem is not None:
            text = f"the {name} image cannot be compared: {side.image.problem.text}"
            problem = replace(side.image.problem, text=text)
            return Pair(comparison=replace(comparison, not_assessed=problem), prepared=None)
    images, masks = _pixels(before.image, after.image)
    spacing = (before.image.spacing_mm, after.image.spacing_mm)
    try:
        pair = prepare_pair(*images, manifest.preparation, masks=masks, spacing_mm=spacing)
    except ImageError as exc:
        problem = NotAssessed(reason=Reason.SCALE, text=str(exc))
        return Pair(comparison=replace(comparison, not_assessed=problem), prepared=None)
    outcome = pair.registration
    if not isinstance(outcome, Registration):
        problem = _failure(pair, manifest, needs_good=needs_good)
        return Pair(comparison=replace(comparison, not_assessed=problem), prepared=None)
    alignment = Alignment(
        inliers=outcome.inliers,
        matches=outcome.matches,
        residual_px=outcome.residual_px,
        overlap=outcome.overlap,
        rotation_deg=outcome.rotation_deg,
    )
    comparison = replace(comparison, alignment=alignment)
    if needs_good and not alignment.is_good:
        return Pair(comparison=replace(comparison, not_assessed=_OTHER_LESION), prepared=None)
    comparison = replace(
        comparison,
        growth=measure_growth(*masks, pair.source_matrix, spacing_mm=spacing),
        frames=common_frames(images, masks, pair) if with_frames else None,
        remarks=_remarks(pair, masks, spacing),
    )
    return Pair(
        comparison=comparison,
        prepared=(prepare_image(pair.before.image), prepare_image(pair.after.image)),
    )


def kept(pair: Pair, tools: Tools) -> Pair:
    """Put the pair's pictures where many of them have room."""
    frames = pair.comparison.frames
    if frames is None:
        return pair
    keep = tools.scratch.keep
    frames = replace(frames, before=keep(frames.before), after=keep(frames.after))
    return replace(pair, comparison=replace(pair.comparison, frames=frames))


def _pixels(
    before: LesionImage, after: LesionImage
) -> tuple[
    tuple[NDArray[np.uint8], NDArray[np.uint8]], tuple[NDArray[np.bool_], NDArray[np.bool_]]
]:
    """The originals and their lesions, which images without a problem have."""
    assert before.pixels is not None, "an image without pixels has a problem"
    assert after.pixels is not None, "an image without pixels has a problem"
    assert before.region is not None, "an image without a lesion has a problem"
    assert after.region is not None, "an image without a lesion has a problem"
    return (before.pixels, after.pixels), (before.region.mask, after.region.mask)


def _failure(pair: PreparedPair, manifest: ChangeManifest, *, needs_good: bool) -> NotAssessed:
    """Why two images could not be brought together."""
    outcome = pair.registration
    if outcome is None or isinstance(outcome, Registration):
        raise BadModelOutput("the model change_detection was exported without registration")
    if outcome.reason == "too few inliers":
        flipped = np.ascontiguousarray(pair.after.image[:, ::-1])
        settings = manifest.preparation.registration
        if isinstance(register(pair.before.image, flipped, settings), Registration):
            return _MIRRORED
    return _OTHER_LESION if needs_good else _FAILURES[outcome.reason]


def _remarks(
    pair: PreparedPair,
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    spacing: tuple[float | None, float | None],
) -> tuple[str, ...]:
    remarks = []
    if None in spacing:
        remarks.append(
            "the images are not both calibrated: one field of view was assumed for their scale"
        )
    cut = [name for mask, name in zip(masks, _SIDES, strict=True) if _is_cut(mask)]
    if cut:
        remarks.append(
            f"the lesion reaches the edge of the {' and the '.join(cut)} image: its growth, and "
            "what is said of change, hold for the part that is shown"
        )
    for image, name in zip((pair.before, pair.after), _SIDES, strict=True):
        done = _cleaned(image)
        if done:
            remarks.append(f"{done} taken out of a copy of the {name} image before comparing")
    return tuple(remarks)


def _is_cut(mask: NDArray[np.bool_]) -> bool:
    """Whether a lesion reaches the edge of its image."""
    edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return any(bool(edge.any()) for edge in edges)


def _cleaned(image: PreparedImage) -> str:
    steps = {"dark corners": image.corners == "removed", "hair": image.hair == "removed"}
    names = [name for name, is_done in steps.items() if is_done]
    return f"{' and '.join(names)} {'were' if steps['dark corners'] else 'was'}" if names else ""


def judge(pairs: Sequence[Pair], manifest: ChangeManifest, tools: Tools) -> list[Comparison]:
    """Ask the network about every prepared pair; return all comparisons in order.

    Raises
    ------
    BadModelOutput, ModelUnavailable, EncoderMismatch
        From the models.
    """
    ready = [pair.prepared for pair in pairs if pair.prepared is not None]
    probabilities = iter(_probabilities(ready, manifest, tools) if ready else ())
    found = []
    for pair in pairs:
        comparison = pair.comparison
        if pair.is_prepared:
            prob = float(next(probabilities))
            comparison = replace(
                comparison, change_prob=prob, is_changed=prob >= manifest.threshold
            )
        found.append(comparison)
    return found


def _probabilities(
    ready: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    manifest: ChangeManifest,
    tools: Tools,
) -> NDArray[np.float64]:
    images = [image for pair in ready for image in pair]

    def load(numbers: Sequence[int]) -> NDArray[np.uint8]:
        return np.stack([images[number] for number in numbers])

    keys = [content_key(image) for image in images]
    embeddings = tools.encoder.encode(keys, load, tools.checkpoint)
    outputs: Tensors = tools.models.infer(
        tools.served.name,
        {"EMBEDDING_BEFORE": embeddings[0::2], "EMBEDDING_AFTER": embeddings[1::2]},
    )
    logits = outputs.get("CHANGE_LOGIT")
    if logits is None or logits.size != len(ready) or not np.isfinite(logits).all():
        raise BadModelOutput("the model change_detection sent no logit for each pair")
    return change_probability(logits.ravel(), manifest.temperature)
