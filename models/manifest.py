"""The manifest: what travels with weights, so that a result can say which model spoke and how well.

A manifest is a JSON file beside the weights. It is read strictly: an unknown, missing or
impossible value is an error, since a wrong threshold gives wrong answers in silence.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from models.architectures.diagnosis import DiagnosisShape
from models.architectures.encoder import EncoderShape
from models.errors import ManifestError
from models.results import ModelIdentity

_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How an image becomes the network's input."""

    size: int
    """Side of the square input in pixels."""
    mean: tuple[float, ...]
    """Channel means subtracted from values in [0, 1], R G B."""
    std: tuple[float, ...]
    """Channel deviations divided by, R G B."""
    interpolation: str
    """Resampling filter."""
    framing: str
    """What of the image is seen."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec:
    """The numbers that rebuild the network, and how it is run."""

    dim: int
    """Token width."""
    depth: int
    """Transformer blocks."""
    heads: int
    """Attention heads."""
    mlp_ratio: int
    """MLP width over token width."""
    patch_size: int
    """Side of a patch in pixels."""
    prior_width: int
    """Channels of the spatial prior at 1/4 size."""
    decoder_width: int
    """Channels of the lesion decoder."""
    taps: tuple[int, ...]
    """Blocks read by the decoder beside the last."""
    flips: bool
    """Whether the outputs are averaged over the four mirror images of the input."""


@dataclass(frozen=True, kw_only=True)
class HeldOutFigure:
    """One figure on images the model never saw, with what is needed to repeat it."""

    metric: str
    """What was measured, e.g. ``macro one-versus-rest AUROC``."""
    data: str
    """On what, e.g. ``HAM10000 subset, test split``."""
    value: float
    """Point estimate."""
    low: float | None
    """Lower end of the 95 % interval; None where it is undefined."""
    high: float | None
    """Upper end of the 95 % interval; None where it is undefined."""
    n: int
    """Images."""
    groups: int
    """Lesions or patients, the unit that was resampled."""
    command: str
    """Command that gives the figure."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What travels with the weights of one version of the diagnosis model."""

    name: str
    """Model name in the model repository."""
    version: str
    """Version of the weights, ``major.minor.patch``."""
    digest: str
    """SHA-256 of the weight file, 64 lower-case hexadecimal digits."""
    labels: dict[str, str]
    """Label -> full name, in the order of the logits."""
    malignant_labels: tuple[str, ...]
    """Labels that count towards malignancy."""
    input: InputSpec
    architecture: ArchitectureSpec
    temperature: float
    """Divides the logits before the softmax, positive."""
    lesion_threshold: float
    """Probability in (0, 1) from which a pixel belongs to the lesion."""
    operating_point: float
    """Malignancy in (0, 1) from which a lesion is called suspicious."""
    operating_point_meaning: str
    """What the operating point was chosen for."""
    ood_threshold: float
    """Out-of-distribution score above which an image is remarked on, and refused from a multiple
    of it (``models.diagnosis``)."""
    ood_threshold_meaning: str
    """What the threshold was chosen for."""
    data: str
    """Data the weights were trained on, with source."""
    licence: str
    """Terms of the weights."""
    citation: str
    """Publication of the training data."""
    intended_use: str
    """What the model is and is not for."""
    training_command: str
    """Command that makes the weights."""
    git_commit: str
    """Commit of the code that made the weights."""
    created: str
    """Day of the export, ISO 8601."""
    evidence: str
    """One sentence: data, number of held-out images, headline figure."""
    figures: tuple[HeldOutFigure, ...]
    """All held-out figures."""

    def __post_init__(self) -> None:
        """Refuse values that no model can have."""
        _check_manifest(self)

    def shape(self) -> DiagnosisShape:
        """Return the shape of the network."""
        spec = self.architecture
        return DiagnosisShape(
            encoder=EncoderShape(
                dim=spec.dim,
                depth=spec.depth,
                heads=spec.heads,
                mlp_ratio=spec.mlp_ratio,
                patch_size=spec.patch_size,
                image_size=self.input.size,
            ),
            num_labels=len(self.labels),
            prior_width=spec.prior_width,
            decoder_width=spec.decoder_width,
            taps=spec.taps,
        )

    def identity(self) -> ModelIdentity:
        """Return what every report says of the model."""
        return ModelIdentity(
            name=self.name,
            version=self.version,
            digest=self.digest,
            evidence=self.evidence,
            licence=self.licence,
        )

    def to_json(self) -> str:
        """Return the manifest as indented JSON, keys in the order of the fields."""
        plain = dataclasses.asdict(self)
        return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read a manifest strictly.

        Raises
        ------
        ManifestError
            If the text is not JSON, a key is unknown, missing or given twice, or a value has the
            wrong type or range.
        """
        try:
            content = json.loads(
                text, object_pairs_hook=_refuse_twice, parse_constant=_refuse_constant
            )
        except (ValueError, RecursionError) as exc:
            raise ManifestError(f"the manifest is not JSON: {exc}") from exc
        manifest = _build(cls, content, "manifest")
        if not isinstance(manifest, Manifest):
            raise ManifestError("the manifest must be an object")
        return manifest


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ManifestError("the manifest names a key twice")
    return content


def _refuse_constant(name: str) -> Any:
    raise ManifestError(f"the manifest holds {name}")


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn plain JSON values into ``kind``, strictly."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ManifestError(f"{where} must be a list")
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ManifestError(f"{where} must be an object")
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is types.UnionType:
        return None if value is None else _build(arguments[0], value, where)
    return _build_scalar(kind, value, where)


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ManifestError(f"{where} must be an object")
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    if set(value) != names:
        unknown, missing = sorted(set(value) - names), sorted(names - set(value))
        raise ManifestError(f"{where}: unknown {unknown}, missing {missing}")
    return kind(**{name: _build(hints[name], value[name], f"{where}.{name}") for name in names})


def _build_scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ManifestError(f"{where} must be {kind.__name__}, not {type(value).__name__}")
    return value


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _has_shape(manifest: Manifest) -> bool:
    try:
        manifest.shape()
    except ValueError:
        return False
    return True


def _is_figure(figure: HeldOutFigure) -> bool:
    numbers = [v for v in (figure.low, figure.value, figure.high) if v is not None]
    return (
        all(math.isfinite(number) for number in numbers)
        and (figure.low is None) == (figure.high is None)
        and (figure.low is None or figure.high is None or figure.low <= figure.high)
        and figure.n >= figure.groups > 0
    )


def _check_manifest(manifest: Manifest) -> None:
    texts = {
        field.name: getattr(manifest, field.name)
        for field in dataclasses.fields(manifest)
        if field.type == "str"
    }
    labels, malignant = manifest.labels, manifest.malignant_labels
    spec = manifest.input
    checks: dict[str, Callable[[], bool]] = {
        "name": lambda: bool(_NAME.fullmatch(manifest.name)),
        "version": lambda: bool(_VERSION.fullmatch(manifest.version)),
        "digest": lambda: bool(_DIGEST.fullmatch(manifest.digest)),
        "labels": lambda: (
            len(labels) >= 2
            and all(label.strip() and name.strip() for label, name in labels.items())
            and len(set(labels.values())) == len(labels)
        ),
        "malignant_labels": lambda: (
            0 < len(malignant) < len(labels)
            and len(set(malignant)) == len(malignant)
            and set(malignant) <= set(labels)
        ),
        "input": lambda: (
            len(spec.mean) == len(spec.std) == 3
            and all(0 <= value <= 1 for value in spec.mean)
            and all(0 < value <= 1 for value in spec.std)
        ),
        "architecture": lambda: _has_shape(manifest),
        "temperature": lambda: 0 < manifest.temperature < math.inf,
        "lesion_threshold": lambda: 0 < manifest.lesion_threshold < 1,
        "operating_point": lambda: 0 < manifest.operating_point < 1,
        "ood_threshold": lambda: 0 < manifest.ood_threshold < math.inf,
        "created": lambda: _is_day(manifest.created),
        "figures": lambda: all(map(_is_figure, manifest.figures)),
    }
    wrong = [name for name, text in texts.items() if not text.strip()]
    wrong += [name for name, is_right in checks.items() if name not in wrong and not is_right()]
    if wrong:
        raise ManifestError(f"impossible values in the manifest: {', '.join(wrong)}")
