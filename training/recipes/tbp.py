"""Recipe of TBP screening: risk, nevus and photodamage heads, trees, and their joint thresholds.

The encoder stays as it is served; each head is a linear layer on its embeddings, found by
optimisation to the end, so that runs are the same however often they were interrupted.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures.tbp import HEADS
from models.tbp.lesions import (
    PHOTODAMAGE_GRADES,
    FusionThresholds,
    TbpManifest,
    filter_tiles,
    find_ugly_ducklings,
)
from models.tbp.measurements import NAMES, column_number
from models.tbp.trees import Forest, predict_forest
from models.weights import digest_of, encode_weights
from training.errors import CohortError
from training.export import Provenance, TensorSpec, export_model
from training.features.embedding import Embedder, embed_files, load_embedder
from training.features.heads import LinearHead, fit_linear_head
from training.finished import held_out, read_finished
from training.runs import Progress, RunFolder, seed_all
from training.settings import read_toml
from training.simulate.tbp import simulate_tbp
from training.tbp.cohort import TbpCohort, cohort_digest, read_cohort
from training.tbp.figures import DATA, TbpAnswers, evidence_sentence, measure, write_report
from training.tbp.settings import TbpSettings
from training.tbp.thresholds import (
    ModuleVotes,
    choose_thresholds,
    export_trees,
    fit_count_threshold,
    grow_trees,
)

SUMMARY = "train the heads and trees of TBP screening, or go on with it"
RESULTS = "results.json"
MODEL_NAME = "tbp_screening"
CITATION = (
    "Yan S et al. A multimodal vision foundation model for clinical dermatology. Nature Medicine "
    "2025 (the method); Tschandl P, Rosendahl C, Kittler H. Scientific Data 5, 180161 (2018); "
    "Kurtansky N et al. Scientific Data 11, 884 (2024)."
)
LICENCE = (
    "That of the training data (HAM10000: CC BY-NC 4.0); research use only. The code is Apache-2.0."
)
MAX_BATCH_SIZE = 4096  # a patient's lesions in one call; embeddings of 4,096 take 20 MB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="cohort: lesions.csv, tiles/, photodamage.csv")
    source.add_argument(
        "--simulate-from", type=Path, help="real lesions: labels.csv, images/, masks/"
    )
    parser.add_argument(
        "--measurements", type=Path, help="CSV of real measurement rows for the simulator"
    )
    parser.add_argument(
        "--encoder", type=Path, help="exported encoder, e.g. triton_repo/encoder; default: ImageNet"
    )


def run(options: argparse.Namespace, report: Progress) -> None:
    """Train to the end, measure on the test split, write ``results.json`` and ``report.html``."""
    settings = read_toml(options.config, TbpSettings)
    folder = RunFolder(options.out, recipe="tbp", settings=settings)
    data = options.data
    if data is None:
        data = folder.path("cohort")
        simulate_tbp(
            settings.simulation,
            lesions=options.simulate_from,
            measurements=options.measurements,
            folder=data,
            report=report,
        )
    embedder = load_embedder(options.encoder)
    TbpRun(settings, data, folder, embedder).train(report)


@dataclass(frozen=True, kw_only=True)
class _Features:
    """Embeddings of a cohort, and which of its lesions pass the device's filters."""

    lesions: NDArray[np.float32]
    skin: NDArray[np.float32]
    is_kept: NDArray[np.bool_]


class TbpRun:
    """One run in one folder; each head and the trees are a step that is not repeated.

    Parameters
    ----------
    settings
        The configuration.
    data
        Folder of the cohort.
    folder
        Folder of the run.
    embedder
        The encoder.
    """

    def __init__(
        self, settings: TbpSettings, data: Path, folder: RunFolder, embedder: Embedder
    ) -> None:
        self.settings, self.folder, self.embedder = settings, folder, embedder
        shares = (settings.train_fraction, settings.validation_fraction)
        self.cohort: TbpCohort = read_cohort(
            data, settings.columns, fractions=(*shares, 1 - sum(shares)), seed=settings.seed
        )
        self.state = folder.load_or_begin(
            {"encoder": embedder.digest, "cohort": cohort_digest(data)}
        )

    def train(self, report: Progress) -> None:
        """Do what is left to do."""
        seed_all(self.settings.seed)
        features = self._embed(report)
        heads = {name: self._head(name, features, report) for name in HEADS}
        forest = self._forest(features, report)
        self._log(heads)
        answers = self._answer(features, heads, forest)
        thresholds, nevus_threshold = self._thresholds(answers)
        report("measuring on the test split", 0, 1)
        figures = measure(answers, thresholds, nevus_threshold, replicates=self.settings.replicates)
        self.folder.write_json(
            RESULTS,
            {
                "simulation": self.cohort.simulation,
                "encoder": self.embedder.digest,
                "embedding_dim": self.embedder.dim,
                "thresholds": asdict(thresholds),
                "nevus_threshold": nevus_threshold,
                "trained_measurements": list(self._trained_names()),
                "figures": [asdict(figure) for figure in figures],
            },
        )
        write_report(
            self.folder.path("report.html"),
            answers,
            figures=figures,
            thresholds=thresholds,
            nevus_threshold=nevus_threshold,
            history=self.folder.history,
            is_simulated=self.cohort.is_simulated,
            remarks=self._remarks(features),
        )
        report("measuring on the test split", 1, 1)

    def _embed(self, report: Progress) -> _Features:
        cache = self.folder.path("embeddings")
        lesions, skin = self.cohort.lesions, self.cohort.skin
        filtered = filter_tiles(
            lesions.measurements.values,
            self.settings.filters,
            out_of_bounds=lesions.out_of_bounds,
        )
        return _Features(
            lesions=embed_files(self.embedder, lesions.tiles, cache, report, "encoding tiles"),
            skin=embed_files(self.embedder, skin.tiles, cache, report, "encoding skin"),
            is_kept=filtered.is_kept,
        )

    def _examples(
        self, name: str, features: _Features
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Training embeddings and labels of a head."""
        lesions, skin = self.cohort.lesions, self.cohort.skin
        if name == "photodamage":
            chosen = skin.split == 0
            return features.skin[chosen], skin.grade[chosen]
        labels = lesions.referred if name == "risk" else lesions.nevus
        chosen = (lesions.split == 0) & features.is_kept & np.isfinite(labels)
        return features.lesions[chosen], labels[chosen].astype(np.int64)

    def _head(self, name: str, features: _Features, report: Progress) -> LinearHead:
        if name not in self.state:
            report(f"fitting the {name} head", 0, 1)
            embeddings, labels = self._examples(name, features)
            head = fit_linear_head(
                embeddings,
                labels,
                classes=max(2, HEADS[name]),
                penalty=self.settings.heads.penalty,
                balance=self.settings.heads.balance,
            )
            self.state[name] = {
                "weight": torch.from_numpy(head.weight),
                "bias": torch.from_numpy(head.bias),
                "losses": list(head.losses),
            }
            self.folder.save(self.state)
            report(f"fitting the {name} head", 1, 1)
        kept = self.state[name]
        return LinearHead(
            weight=kept["weight"].numpy(),
            bias=kept["bias"].numpy(),
            losses=tuple(kept["losses"]),
        )

    def _trained_names(self) -> tuple[str, ...]:
        """Inputs that the table has."""
        absent = set(self.cohort.lesions.measurements.absent)
        return tuple(name for name in self.settings.columns.input_names if name not in absent)

    def _forest(self, features: _Features, report: Progress) -> Forest:
        if "trees" not in self.state:
            report("growing trees", 0, 1)
            lesions = self.cohort.lesions
            chosen = (lesions.split == 0) & features.is_kept
            if len(set(lesions.malignant[chosen].tolist())) < 2:
                raise CohortError("the filters leave no malignant or no benign training lesion")
            columns = [column_number(name) for name in self._trained_names()]
            grown = grow_trees(
                lesions.measurements.values[chosen],
                lesions.malignant[chosen],
                columns,
                self.settings.trees,
                self.settings.seed,
            )
            forest = export_trees(grown, columns, len(NAMES))
            self.state["trees"] = {
                name: torch.from_numpy(array) for name, array in forest.arrays().items()
            }
            self.folder.save(self.state)
            report("growing trees", 1, 1)
        arrays = {name: value.numpy() for name, value in self.state["trees"].items()}
        return Forest.from_arrays(arrays, len(NAMES))

    def _log(self, heads: dict[str, LinearHead]) -> None:
        for step in range(max(len(head.losses) for head in heads.values())):
            row = {
                f"{name}_loss": head.losses[min(step, len(head.losses) - 1)]
                for name, head in heads.items()
            }
            self.folder.log({"epoch": step + 1, **row})

    def _answer(
        self, features: _Features, heads: dict[str, LinearHead], forest: Forest
    ) -> TbpAnswers:
        lesions = self.cohort.lesions
        is_duckling = np.zeros(len(lesions.patients), np.bool_)
        for patient in np.unique(lesions.patients):
            rows = np.flatnonzero((lesions.patients == patient) & features.is_kept)
            found = find_ugly_ducklings(features.lesions[rows], self.settings.ugly_duckling)
            is_duckling[rows] = found.is_outlier
        skin = heads["photodamage"].logits(features.skin)
        skin = np.exp(skin - skin.max(axis=1, keepdims=True))
        return TbpAnswers(
            cohort=self.cohort,
            is_kept=features.is_kept,
            risk=_sigmoid(heads["risk"].logits(features.lesions)[:, 0]),
            nevus=_sigmoid(heads["nevus"].logits(features.lesions)[:, 0]),
            trees=predict_forest(forest, lesions.measurements.values),
            is_duckling=is_duckling,
            photodamage=skin / skin.sum(axis=1, keepdims=True),
        )

    def _thresholds(self, answers: TbpAnswers) -> tuple[FusionThresholds, float]:
        lesions = self.cohort.lesions
        chosen = (lesions.split == 1) & answers.is_kept
        if not lesions.malignant[chosen].any():
            raise CohortError("the filters leave no malignant validation lesion")
        votes = ModuleVotes(
            risk=answers.risk[chosen],
            trees=answers.trees[chosen],
            is_duckling=answers.is_duckling[chosen],
        )
        known = chosen & np.isfinite(lesions.nevus)
        nevus_threshold, _ = fit_count_threshold(
            answers.nevus[known], lesions.nevus[known] == 1, lesions.patients[known].tolist()
        )
        return (
            choose_thresholds(votes, lesions.malignant[chosen], self.settings.sensitivity),
            nevus_threshold,
        )

    def _remarks(self, features: _Features) -> tuple[str, ...]:
        lesions = self.cohort.lesions
        absent = [n for n in self.settings.columns.input_names if n not in self._trained_names()]
        remarks = [*lesions.measurements.remarks]
        if absent:
            remarks.append(f"not in the table, hence not learnt from: {', '.join(absent)}")
        out = int((~features.is_kept).sum())
        remarks.append(f"{out} of {len(features.is_kept)} lesions do not pass the filters")
        return tuple(remarks)


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))


def _data_sentence(simulation: dict[str, str] | None) -> str:
    if simulation is None:
        return "a cohort of total body photography with the site's own labels"
    return (
        f"simulated patients: tiles cut from dermoscopic images ({simulation['lesions']}) and "
        f"recoloured, measurements {simulation['measurements']} with assumed deviations of "
        "malignant lesions"
    )


def export(run: Path, repository: Path, provenance: Provenance) -> TbpManifest:
    """Write a finished run into ``<repository>/tbp_screening``.

    Raises
    ------
    RunError
        If the run is not finished or cannot be read.
    """
    settings, results, state = read_finished(run, "tbp", TbpSettings, RESULTS)
    tensors = {f"trees.{name}": value for name, value in state["trees"].items()}
    for name in HEADS:
        for part in ("weight", "bias"):
            tensors[f"heads.{name}.{part}"] = state[name][part]
    # In full: heads are small, and rounding a threshold could send a lesion down another branch.
    weights = encode_weights(tensors, half=False)
    figures = held_out(results["figures"], data=DATA, command=provenance.evaluation_command)
    simulation = results["simulation"]
    is_simulated = simulation is not None
    manifest = TbpManifest(
        name=MODEL_NAME,
        version=provenance.version,
        digest=digest_of(weights),
        data=_data_sentence(simulation),
        licence=LICENCE,
        citation=CITATION,
        intended_use="Research: which lesions of a total body photography deserve a closer look. "
        "Not a medical device; a lesion without a reason is not thereby benign.",
        training_command=provenance.training_command,
        git_commit=provenance.git_commit,
        created=provenance.created,
        evidence_level="simulated" if is_simulated else "real",
        evidence=evidence_sentence(figures, is_simulated=is_simulated),
        figures=figures,
        measurements=NAMES,
        optional_measurements=settings.columns.optional,
        trained_measurements=tuple(results["trained_measurements"]),
        filters=settings.filters,
        ugly_duckling=settings.ugly_duckling,
        thresholds=FusionThresholds(**results["thresholds"]),
        thresholds_meaning=f"sensitivity {settings.sensitivity:.2f} of the three modules together "
        "for malignant lesions of the validation patients",
        nevus_threshold=results["nevus_threshold"],
        photodamage_grades=PHOTODAMAGE_GRADES,
        embedding_dim=results["embedding_dim"],
        encoder_digest=results["encoder"],
    )
    export_model(
        repository,
        manifest,
        weights,
        backend="models.backends.tbp_screening:TbpScreeningBackend",
        inputs=(
            TensorSpec(name="EMBEDDING", kind="FP32", dims=(manifest.embedding_dim,)),
            TensorSpec(name="MEASUREMENTS", kind="FP32", dims=(len(NAMES),)),
        ),
        outputs=(
            TensorSpec(name="RISK", kind="FP32", dims=(1,)),
            TensorSpec(name="NEVUS", kind="FP32", dims=(1,)),
            TensorSpec(name="MALIGNANT_TREES", kind="FP32", dims=(1,)),
            TensorSpec(name="PHOTODAMAGE", kind="FP32", dims=(len(PHOTODAMAGE_GRADES),)),
        ),
        max_batch_size=MAX_BATCH_SIZE,
    )
    return manifest
