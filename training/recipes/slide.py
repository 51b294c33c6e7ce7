"""Recipe of the slide model: tissue, tiles, features, attention network, figures, heat maps."""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.architectures.abmil import GatedAbmil
from models.backends.slide import load_abmil
from models.calibration import calibrate, fit_temperature
from models.manifest import HeldOutFigure
from models.slide.tiles import AbmilShape, SlideManifest
from models.strict import StrictError, build
from models.weights import digest_of, encode_weights, fill, read_tensors
from training.errors import CohortError, RunError
from training.export import Provenance, TensorSpec, export_model
from training.runs import Progress, settings_digest, write_atomically
from training.settings import read_toml
from training.simulate.patches import Split
from training.simulate.slides import SimulatedSlide, SimulationSettings, simulate_slides
from training.slide.cohort import (
    SPLITS,
    SlideCohort,
    SlideRow,
    read_slide_table,
    simulated_cohort,
    split_folds,
)
from training.slide.features import FeatureStore, SlideRecord, TileSettings, load_tile_encoder
from training.slide.figures import evidence_sentence, measure_slides, threshold_for, tumour_auroc
from training.slide.fitting import AbmilSettings, Bag, predict, train_abmil
from training.slide.outputs import write_attention, write_report, write_table

SUMMARY = "slide classification: tissue, tiles, features, attention network"
NAME = "slide_classification"
RESULT, WEIGHTS, FINAL = "result.json", "weights.safetensors", "final"


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Slides of a site, named in ``slides.csv`` of the data folder."""

    kind: Literal["table"]


@dataclass(frozen=True, kw_only=True)
class AboutSettings:
    """What the manifest says of the data; it changes no weight."""

    data: str
    """Data and their source."""
    licence: str
    """Terms of the weights."""
    citation: str
    """Publication of the data."""
    intended_use: str
    """What the model is and is not for."""


@dataclass(frozen=True, kw_only=True)
class SlideSettings:
    """Everything that decides the weights, apart from data, encoder and code."""

    recipe: Literal["slide"]
    seed: int
    """Seed of folds, start values, order and dropout."""
    labels: dict[str, str]
    """Label -> full name, in the order of the logits."""
    positive_labels: tuple[str, ...]
    """Labels that count as positive."""
    folds: int
    """Folds by case, at least 3."""
    sensitivity: float
    """Share of positive calibration slides that the threshold is to find; of development slides
    out of fold where none are kept for calibration."""
    heat_maps: int
    """Held-out slides whose attention is written as a picture."""
    about: AboutSettings
    source: TableSource | SimulationSettings
    tiles: TileSettings
    network: AbmilSettings

    def __post_init__(self) -> None:
        """Refuse values no run can use."""
        if self.folds < 3:
            raise ValueError("folds must be at least 3: one tests, one stops, the rest trains")
        if not 0 < self.sensitivity < 1:
            raise ValueError("sensitivity must lie in (0, 1)")
        if not 0 < len(set(self.positive_labels) & set(self.labels)) < len(self.labels):
            raise ValueError("positive_labels must be some of the labels, not all")
        if not set(self.positive_labels) <= set(self.labels):
            raise ValueError("positive_labels names an unknown label")

    def positive_columns(self) -> list[int]:
        """Numbers of the positive labels."""
        return [list(self.labels).index(label) for label in self.positive_labels]


@dataclass(frozen=True, kw_only=True)
class _FoldIdentity:
    """What one network's folder belongs to."""

    settings: SlideSettings
    encoder_digest: str
    slides: tuple[str, ...]
    """Keys of the features of its training and validation slides."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe's options."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, required=True, help="slides.csv, or the patches")
    parser.add_argument(
        "--encoder", type=Path, help="exported encoder, e.g. triton_repo/encoder; default: ImageNet"
    )


def run(options: argparse.Namespace, report: Progress) -> None:
    """Run the recipe, or go on with it."""
    settings = read_toml(options.config, SlideSettings)
    cohort, simulated = _read_cohort(settings, options.data)
    encoder = load_tile_encoder(options.encoder)
    store = FeatureStore(options.out / "features", settings=settings.tiles, encoder=encoder)
    records = store.extract(cohort.sources, report)
    write_table(options.out / "slides.csv", cohort.rows, records)
    usable = [row for row in cohort.rows if records[row.slide_id].status == "ok"]
    splits = {name: [row for row in usable if row.split == name] for name in SPLITS}
    _check_labels(settings, usable, needs_all=False)
    _check_labels(settings, splits["development"])
    if splits["calibration"]:
        _check_labels(settings, splits["calibration"])
    slide_run = _SlideRun(
        settings=settings,
        folder=options.out,
        store=store,
        records=records,
        shape=_shape(settings, encoder.dim),
        encoder_digest=encoder.digest,
    )
    development = splits["development"]
    folds = np.array(split_folds(development, folds=settings.folds, seed=settings.seed))
    logits = slide_run.out_of_fold(development, folds, report)
    final = slide_run.final(development, folds, splits["calibration"], report)
    _finish(slide_run, final, splits, logits, simulated, report)


def _read_cohort(
    settings: SlideSettings, data: Path
) -> tuple[SlideCohort, dict[str, SimulatedSlide]]:
    if isinstance(settings.source, TableSource):
        return read_slide_table(data), {}
    slides, state = simulate_slides(settings.source, data)
    return simulated_cohort(slides, state), {slide.slide_id: slide for slide in slides}


def _shape(settings: SlideSettings, features: int) -> AbmilShape:
    return AbmilShape(
        features=features,
        width=settings.network.width,
        attention=settings.network.attention,
        labels=len(settings.labels),
        is_branched=settings.network.is_branched,
    )


def _check_labels(settings: SlideSettings, rows: list[SlideRow], *, needs_all: bool = True) -> None:
    found = {row.label for row in rows}
    unknown, absent = found - set(settings.labels), set(settings.labels) - found
    if unknown:
        raise CohortError(f"slides have labels that the configuration lacks: {sorted(unknown)}")
    if absent and needs_all:
        raise CohortError(f"no usable slide has label {sorted(absent)}")


@dataclass(frozen=True, kw_only=True)
class _SlideRun:
    """One run with everything its networks share."""

    settings: SlideSettings
    folder: Path
    store: FeatureStore
    records: dict[str, SlideRecord]
    shape: AbmilShape
    encoder_digest: str

    def bags(self, rows: list[SlideRow]) -> list[Bag]:
        """Features and labels of slides."""
        names = list(self.settings.labels)
        return [
            Bag(
                slide_id=row.slide_id,
                features=self.store.read(self.records[row.slide_id])[0],
                label=names.index(row.label),
            )
            for row in rows
        ]

    def train(
        self, name: str, train: list[SlideRow], validation: list[SlideRow], report: Progress
    ) -> GatedAbmil:
        """Train the network of one folder, or go on with it."""
        keys = tuple(self.records[row.slide_id].key for row in (*train, *validation))
        return train_abmil(
            self.settings.network,
            train=self.bags(train),
            validation=self.bags(validation),
            shape=self.shape,
            folder=self.folder / name,
            seed=self.settings.seed,
            identity=_FoldIdentity(
                settings=self.settings, encoder_digest=self.encoder_digest, slides=keys
            ),
            report=report,
        )

    def out_of_fold(
        self, rows: list[SlideRow], folds: NDArray[np.int64], report: Progress
    ) -> NDArray[np.float64]:
        """Logits (B, C) of each slide from the network that saw neither it nor its case."""
        logits = np.zeros((len(rows), len(self.settings.labels)))
        for fold in range(self.settings.folds):
            stop = (fold + 1) % self.settings.folds
            train = [row for row, own in zip(rows, folds, strict=True) if own not in (fold, stop)]
            validation = [row for row, own in zip(rows, folds, strict=True) if own == stop]
            network = self.train(f"fold_{fold}", train, validation, report)
            tested = [row for row, own in zip(rows, folds, strict=True) if own == fold]
            logits[folds == fold] = predict(network, self.bags(tested))
        return logits

    def final(
        self,
        rows: list[SlideRow],
        folds: NDArray[np.int64],
        calibration: list[SlideRow],
        report: Progress,
    ) -> tuple[GatedAbmil, bytes]:
        """Network that ships, rounded as it is stored, and its weight file.

        Calibration slides, where there are some, stop its training; else the first fold does.
        """
        train, validation = rows, calibration
        if not calibration:
            train = [row for row, own in zip(rows, folds, strict=True) if own != 0]
            validation = [row for row, own in zip(rows, folds, strict=True) if own == 0]
        network = self.train(FINAL, train, validation, report)
        weights = encode_weights(network.state_dict(), half=True)
        fill(network, read_tensors(weights, digest_of(weights)))
        return network.eval(), weights


def _finish(
    slide_run: _SlideRun,
    final: tuple[GatedAbmil, bytes],
    splits: dict[Split, list[SlideRow]],
    logits: NDArray[np.float64],
    simulated: dict[str, SimulatedSlide],
    report: Progress,
) -> None:
    """Calibrate, measure, explain, and write what the export needs."""
    settings, (network, weights) = slide_run.settings, final
    development, held_out = splits["development"], splits["held_out"]
    # Slides out of fold calibrate where cases are independent; others may be kept for it.
    deciding, deciding_logits = development, logits
    if splits["calibration"]:
        deciding = splits["calibration"]
        deciding_logits = predict(network, slide_run.bags(deciding))
    labels = np.array([bag.label for bag in slide_run.bags(deciding)])
    temperature = fit_temperature(deciding_logits, labels)
    columns = settings.positive_columns()
    positive = calibrate(deciding_logits, temperature)[:, columns].sum(axis=1)
    threshold = threshold_for(positive, np.isin(labels, columns), settings.sensitivity)
    kind = "simulated" if simulated else "real"
    shared = " (simulated; folds share patches)" if simulated else ""
    figures = measure_slides(
        logits,
        development,
        settings,
        temperature,
        threshold,
        data=f"development, out of fold{shared}",
    )
    held_logits = predict(network, slide_run.bags(held_out))
    if held_out:
        figures += measure_slides(
            held_logits, held_out, settings, temperature, threshold, data=f"held-out {kind} slides"
        )
    maps = write_attention(
        slide_run.folder,
        slide_run.store,
        slide_run.records,
        network,
        held_out or development,
        pictures=settings.heat_maps,
        report=report,
    )
    if simulated:
        figures += tumour_auroc(maps, simulated)
    write_atomically(slide_run.folder / WEIGHTS, weights)
    result = {
        "settings_digest": settings_digest(settings),
        "digest": digest_of(weights),
        "encoder_digest": slide_run.encoder_digest,
        "architecture": dataclasses.asdict(slide_run.shape),
        "temperature": temperature,
        "decision_threshold": threshold,
        "evidence_level": kind,
        "calibrated_on": f"{len(deciding)} {kind} {deciding[0].split} slides",
        "figures": [dataclasses.asdict(figure) for figure in figures],
        "predictions": [
            {"slide_id": row.slide_id, "label": row.label, "logits": [float(v) for v in values]}
            for row, values in zip((*development, *held_out), (*logits, *held_logits), strict=True)
        ],
        "settings": dataclasses.asdict(settings),
    }
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    write_atomically(slide_run.folder / RESULT, text.encode())
    shown = held_out or development
    shown_logits = held_logits if held_out else logits
    write_report(
        slide_run.folder,
        settings,
        slide_run.records,
        figures,
        labels=np.array([bag.label for bag in slide_run.bags(shown)]),
        probabilities=calibrate(shown_logits, temperature),
        store=slide_run.store,
        maps=maps,
    )


def export(run: Path, repository: Path, provenance: Provenance) -> SlideManifest:
    """Write the model of a run into ``<repository>/slide_classification``.

    Raises
    ------
    RunError
        If the run is not finished or its files do not belong together.
    """
    try:
        result: dict[str, Any] = json.loads((run / RESULT).read_text("utf-8"))
        weights = (run / WEIGHTS).read_bytes()
        settings = build(SlideSettings, result["settings"], "settings")
        figures = [build(HeldOutFigure, figure, "figure") for figure in result["figures"]]
        shape = build(AbmilShape, result["architecture"], "architecture")
    except (OSError, ValueError, KeyError, TypeError, StrictError) as exc:
        raise RunError(f"{run} holds no finished run of the slide recipe") from exc
    stated = tuple(
        dataclasses.replace(figure, command=provenance.evaluation_command) for figure in figures
    )
    manifest = SlideManifest(
        name=NAME,
        version=provenance.version,
        digest=result["digest"],
        **dataclasses.asdict(settings.about),
        training_command=provenance.training_command,
        git_commit=provenance.git_commit,
        created=provenance.created,
        evidence_level=result["evidence_level"],
        evidence=evidence_sentence(stated),
        figures=stated,
        labels=settings.labels,
        positive_labels=settings.positive_labels,
        architecture=shape,
        encoder_digest=result["encoder_digest"],
        tile_px=settings.tiles.tile_px,
        tile_um_px=settings.tiles.tile_um_px,
        tissue_preset=settings.tiles.tissue_preset,
        temperature=result["temperature"],
        decision_threshold=result["decision_threshold"],
        decision_threshold_meaning=f"sensitivity {settings.sensitivity:.2f} on "
        f"{result['calibrated_on']}",
        min_tiles=settings.tiles.min_tiles,
    )
    load_abmil(weights, manifest)  # refuses weights that are not those of the result
    export_model(
        repository,
        manifest,
        weights,
        backend="models.backends.slide:SlideBackend",
        inputs=(TensorSpec(name="FEATURES", kind="FP32", dims=(-1, shape.features)),),
        outputs=(
            TensorSpec(name="LOGITS", kind="FP32", dims=(shape.labels,)),
            TensorSpec(name="ATTENTION_RAW", kind="FP32", dims=(-1, shape.scores)),
        ),
        max_batch_size=0,
    )
    return manifest
