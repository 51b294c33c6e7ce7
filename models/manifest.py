"""The manifest: what travels with weights, so that a result can say which model spoke and how well.

A manifest is a JSON file beside the weights. It is read strictly: an unknown, missing or
impossible value is an error, since a wrong threshold gives wrong answers in silence. ``Manifest``
holds what every model has; each analysis adds its own fields in a subclass.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Self

from models.errors import ManifestError
from models.results import ModelIdentity
from models.strict import StrictError, build

_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_NAME = re.compile(r"[a-z][a-z0-9_]*")

EvidenceLevel = Literal["real", "simulated", "none"]
"""``real``: real images and labels, held-out patients or lesions. ``simulated``: trained or
evaluated on simulated labels, pairs or bags. ``none``: nothing was measured."""


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

    def __post_init__(self) -> None:
        """Refuse what no network reads."""
        if (
            self.size < 1
            or not len(self.mean) == len(self.std) == 3
            or not all(0 <= value <= 1 for value in self.mean)
            or not all(0 < value <= 1 for value in self.std)
        ):
            raise ValueError("impossible size, mean or std")


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
    """What travels with the weights of one version of any model."""

    name: str
    """Model name in the model repository."""
    version: str
    """Version of the weights, ``major.minor.patch``."""
    digest: str
    """SHA-256 of the weight file, 64 lower-case hexadecimal digits."""
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
    evidence_level: EvidenceLevel
    """What stands behind the weights."""
    evidence: str
    """One sentence: data, number of held-out images, headline figure."""
    figures: tuple[HeldOutFigure, ...]
    """All held-out figures."""

    def __post_init__(self) -> None:
        """Refuse values that no model can have."""
        texts = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.type == "str"
        }
        checks = self._common_checks() | self._extra_checks()
        wrong = [name for name, text in texts.items() if not text.strip()]
        wrong += [name for name, is_right in checks.items() if name not in wrong and not is_right()]
        if wrong:
            raise ManifestError(f"impossible values in the manifest: {', '.join(wrong)}")

    def _common_checks(self) -> dict[str, Callable[[], bool]]:
        return {
            "name": lambda: bool(_NAME.fullmatch(self.name)),
            "version": lambda: bool(_VERSION.fullmatch(self.version)),
            "digest": lambda: bool(_DIGEST.fullmatch(self.digest)),
            "created": lambda: _is_day(self.created),
            "figures": lambda: (
                all(map(_is_figure, self.figures))
                and (self.evidence_level == "none" or bool(self.figures))
            ),
        }

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        """Name of a subclass's field -> whether its value is possible."""
        return {}

    def identity(self) -> ModelIdentity:
        """Return what every report says of the model."""
        return ModelIdentity(
            name=self.name,
            version=self.version,
            digest=self.digest,
            evidence_level=self.evidence_level,
            evidence=self.evidence,
            licence=self.licence,
        )

    def to_json(self) -> str:
        """Return the manifest as indented JSON, keys in the order of the fields."""
        plain = dataclasses.asdict(self)
        return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a manifest of this kind strictly.

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
        try:
            return build(cls, content, "manifest")
        except StrictError as exc:
            raise ManifestError(str(exc)) from exc


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ManifestError("the manifest names a key twice")
    return content


def _refuse_constant(name: str) -> Any:
    raise ManifestError(f"the manifest holds {name}")


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
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
