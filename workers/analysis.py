"""What an analysis is, and the registry of those in ``workers/analyses/``.

One analysis is one module there: its file name, its ``ANALYSIS.name``, its Triton model and its
queue are the same word. A module that cannot be used stops the start of the worker, so that a
study never waits for an analysis that nobody offers.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.store.values import InstanceRow
from models.diagnosis import DiagnosisManifest
from models.results import DiagnosisResult, ImageAssessment, ImageQuality
from workers.errors import RegistryError
from workers.ports import Tensors

AnalysisResult = DiagnosisResult
"""The result kinds that an analysis may conclude with."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Whether an analysis applies to a study, and why."""

    instances: tuple[InstanceRow, ...]
    """The instances it applies to; empty when it does not apply."""
    reason: str
    """One sentence for the timeline."""


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """One image on its way to the model; its full-size pixels are gone."""

    sop_instance_uid: str
    shape: tuple[int, int]
    """(H, W) of the source image in pixels."""
    quality: ImageQuality
    inputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Input tensors without batch axis; empty when the image is not to be assessed."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The result of a study and its headline."""

    result: AnalysisResult
    is_assessed: bool
    """True when at least one image was assessed."""
    reason: str
    """Why nothing, or not everything, was assessed; empty otherwise."""
    summary: dict[str, Any]
    """Headline for tables; holds no patient attribute."""


class Analysis(Protocol):
    """One analysis; ``name`` is also that of its module, its Triton model and its queue."""

    @property
    def name(self) -> str:
        """Lower-case identifier."""
        ...

    @property
    def batch_size(self) -> int:
        """Most images in one request to the model."""
        ...

    def match(self, instances: Sequence[InstanceRow]) -> Match:
        """Return the instances of a study that the analysis applies to, and why."""
        ...

    def prepare(self, sop_instance_uid: str, pixels: NDArray[np.uint8]) -> PreparedImage:
        """Assess the quality of an (H, W, 3) uint8 RGB image and make the model's inputs."""
        ...

    def interpret(
        self, image: PreparedImage, outputs: Tensors, manifest: DiagnosisManifest
    ) -> ImageAssessment:
        """Turn the outputs for one image (no batch axis) into its assessment.

        Raises
        ------
        BadModelOutput
            The outputs contradict the manifest.
        """
        ...

    def conclude(
        self, images: Sequence[ImageAssessment], manifest: DiagnosisManifest
    ) -> Conclusion:
        """Put the images of a study together."""
        ...


_MEMBERS = ("name", "batch_size", "match", "prepare", "interpret", "conclude")


class Registry:
    """The analyses by name, in alphabetical order."""

    def __init__(self, analyses: Mapping[str, Analysis]) -> None:
        self._analyses = dict(sorted(analyses.items()))

    def __iter__(self) -> Iterator[Analysis]:
        return iter(self._analyses.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all analyses."""
        return tuple(self._analyses)

    def get(self, name: str) -> Analysis:
        """Return one analysis.

        Raises
        ------
        RegistryError
            This worker does not offer it.
        """
        try:
            return self._analyses[name]
        except KeyError:
            raise RegistryError(f"this worker does not offer the analysis {name!r}") from None


def load_registry(package: ModuleType) -> Registry:
    """Import every module of a package and return its analyses.

    Raises
    ------
    RegistryError
        A module cannot be imported, has no ``ANALYSIS``, one with another name than its file's,
        one without a member of the protocol, or a name that another module has taken.
    """
    found: dict[str, Analysis] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        try:
            module = importlib.import_module(f"{package.__name__}.{info.name}")
        except ImportError as exc:
            raise RegistryError(f"analysis module {info.name} cannot be imported: {exc}") from exc
        analysis = _checked(info.name, module)
        if analysis.name in found:
            raise RegistryError(f"two modules call their analysis {analysis.name!r}")
        found[analysis.name] = analysis
    if not found:
        raise RegistryError(f"there is no analysis in {package.__name__}")
    return Registry(found)


def _checked(file_name: str, module: ModuleType) -> Analysis:
    analysis: Analysis | None = getattr(module, "ANALYSIS", None)
    if analysis is None:
        raise RegistryError(f"analysis module {file_name} has no ANALYSIS")
    missing = [name for name in _MEMBERS if not hasattr(analysis, name)]
    if missing:
        raise RegistryError(f"the analysis in {file_name} lacks {', '.join(missing)}")
    if analysis.name != file_name:
        raise RegistryError(
            f"the analysis in {file_name} calls itself {analysis.name!r}: file and name must agree"
        )
    return analysis
