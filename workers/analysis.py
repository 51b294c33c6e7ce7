"""What an analysis is, and the registry of those in ``workers/analyses/``.

One analysis is one module there: its file name, its ``ANALYSIS.name``, its Triton model and its
queue are the same word. A module that cannot be used stops the start of the worker, so that a
study never waits for an analysis that nobody offers.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from gateway.store.values import InstanceRow
from models.manifest import Manifest
from reports.context import SourceImage
from workers.encoding import Encoder
from workers.errors import RegistryError
from workers.ports import Checkpoint, InferenceClient, InstanceSource, Priors, Scratch, ServedModel
from workers.slide.source import NoSlides, SlideSource
from workers.study import Study


@dataclass(frozen=True, kw_only=True)
class Match:
    """Whether an analysis applies to a study, and why."""

    instances: tuple[InstanceRow, ...]
    """The instances it applies to; empty when it does not apply."""
    reason: str
    """One sentence for the timeline."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one analysis may take, so that it never starves another; a site may set others."""

    time_s: float
    """Seconds after which an attempt is ended."""
    memory_bytes: int
    """Private memory that an attempt may add to its process."""
    concurrency: int
    """Work items of this analysis that run at a time, over all workers."""
    priority: int
    """0 to 9; queues of higher numbers are served first."""
    is_long: bool = False
    """True for work of minutes: it runs in its own worker group, beside the quick kinds."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What an analysis may use while it runs; all of it passes through ports."""

    served: ServedModel[Any]
    """The analysis' own model; its manifest is an ``Analysis.manifest_type``."""
    models: InferenceClient
    """The model server."""
    encoder: Encoder
    """Images to embeddings, each once."""
    source: InstanceSource
    """Received instances."""
    priors: Priors
    """Earlier images of the study's lesions."""
    scratch: Scratch
    """Keeps large arrays."""
    checkpoint: Checkpoint
    """To be called between two parts of the work, at least every few seconds."""
    slides: SlideSource = field(default_factory=NoSlides)
    """Received whole-slide instances as slides."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The result of a study and its headline."""

    result: object
    """A result kind that ``reports.encode`` knows."""
    sources: tuple[SourceImage, ...]
    """The instances that the result speaks of, those of earlier studies included."""
    is_assessed: bool
    """True when at least something was assessed."""
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
    def manifest_type(self) -> type[Manifest]:
        """Kind of the manifest that its model carries."""
        ...

    @property
    def limits(self) -> Limits:
        """What it may take unless the site says otherwise."""
        ...

    def match(self, study: Study) -> Match:
        """Return the instances of a study that the analysis applies to, and why.

        Called by routing too: it must be quick, and depend on nothing but the study.
        """
        ...

    def run(self, study: Study, tools: Tools) -> Conclusion:
        """Analyse a study.

        What speaks against assessing a part of it (an image that cannot be decoded, a slide
        without tissue, a missing covariate) is part of the result; errors are for what
        concerns the attempt as a whole.

        Raises
        ------
        NothingDecodable
            No instance that the analysis applies to can be read.
        BadModelOutput
            The model's outputs contradict its manifest.
        ModelUnavailable, InstanceMissing, StorageUnavailable
            From the ports.
        """
        ...


_MEMBERS = ("name", "manifest_type", "limits", "match", "run")


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
