"""Recipe of change detection: a Siamese head on embeddings of prepared pairs, with ablation.

The same head is trained twice, on pairs as they came and on pairs prepared by
``models.change.preparation``: the difference is what preparation is worth. The second one serves.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.architectures.siamese import SiameseHead, SiameseShape, contrastive_loss
from models.change.pair import ChangeManifest
from models.metrics import binary_auroc
from models.weights import digest_of, encode_weights, stored
from training.change.figures import (
    DATA,
    PairAnswers,
    choose_operating_point,
    evidence_sentence,
    measure,
    write_report,
)
from training.change.pairs import PairCohort, PairFeatures, encode_pairs, read_pairs
from training.change.settings import ChangeSettings
from training.errors import CohortError, RunError
from training.export import Provenance, TensorSpec, export_model
from training.features.embedding import Embedder, load_embedder
from training.finished import held_out, read_finished
from training.runs import (
    Progress,
    RunFolder,
    cosine_schedule,
    epoch_rng,
    no_decay_groups,
    seed_all,
)
from training.settings import read_toml
from training.simulate.change import simulate_pairs

SUMMARY = "train the Siamese head of change detection, or go on with it"
RESULTS = "results.json"
MODEL_NAME = "change_detection"
VARIANTS = ("raw", "prepared")
"""Pairs as they came, and after preparation."""
SERVED = "prepared"
MAX_BATCH_SIZE = 256
LICENCE = (
    "That of the training data (HAM10000: CC BY-NC 4.0); research use only. The code is Apache-2.0."
)
CITATION = (
    "Yan S et al. A multimodal vision foundation model for clinical dermatology. Nature Medicine "
    "2025 (the method); Tschandl P, Rosendahl C, Kittler H. Scientific Data 5, 180161 (2018)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="cohort: pairs.csv, images/ and perhaps masks/")
    source.add_argument(
        "--simulate-from", type=Path, help="real lesions: labels.csv, images/, masks/"
    )
    parser.add_argument(
        "--encoder", type=Path, help="exported encoder, e.g. triton_repo/encoder; default: ImageNet"
    )


def run(options: argparse.Namespace, report: Progress) -> None:
    """Train to the end, measure on the test split, write ``results.json`` and ``report.html``."""
    settings = read_toml(options.config, ChangeSettings)
    folder = RunFolder(options.out, recipe="change", settings=settings)
    data = options.data
    if data is None:
        data = folder.path("cohort")
        simulate_pairs(
            settings.simulation, lesions=options.simulate_from, folder=data, report=report
        )
    shares = (settings.train_fraction, settings.validation_fraction)
    cohort = read_pairs(data, fractions=(*shares, 1 - sum(shares)), seed=settings.seed)
    ChangeRun(settings, cohort, folder, load_embedder(options.encoder)).train(report)


class ChangeRun:
    """One run in one folder, resumable after each epoch of each variant.

    Parameters
    ----------
    settings
        The configuration.
    cohort
        The pairs.
    folder
        Folder of the run.
    embedder
        The encoder.
    """

    def __init__(
        self, settings: ChangeSettings, cohort: PairCohort, folder: RunFolder, embedder: Embedder
    ) -> None:
        self.settings, self.cohort, self.folder, self.embedder = settings, cohort, folder, embedder
        self.state = folder.load_or_begin({"encoder": embedder.digest, "cohort": cohort.digest})

    def train(self, report: Progress) -> None:
        """Do what is left to do."""
        features = encode_pairs(
            self.cohort,
            self.settings.preparation,
            self.embedder,
            self.folder.path("embeddings"),
            report,
        )
        self._check(features)
        answers = {
            variant: self._answer(self._train_variant(variant, features, report), variant, features)
            for variant in VARIANTS
        }
        report("measuring on the test split", 0, 1)
        pairs = PairAnswers.gather(self.cohort, features, answers)
        temperature, threshold = choose_operating_point(
            pairs, SERVED, sensitivity=self.settings.sensitivity
        )
        figures = measure(
            pairs,
            served=SERVED,
            temperature=temperature,
            threshold=threshold,
            replicates=self.settings.replicates,
        )
        self.folder.write_json(
            RESULTS,
            {
                "simulation": self.cohort.simulation,
                "encoder": self.embedder.digest,
                "embedding_dim": self.embedder.dim,
                "temperature": temperature,
                "threshold": threshold,
                "figures": [asdict(figure) for figure in figures],
            },
        )
        write_report(
            self.folder.path("report.html"),
            pairs,
            figures=figures,
            served=SERVED,
            temperature=temperature,
            threshold=threshold,
            history=self.folder.history,
            preparation=self.settings.preparation,
        )
        report("measuring on the test split", 1, 1)

    def _rows(self, split: int, features: PairFeatures) -> NDArray[np.intp]:
        """Pairs of a split with a known answer that were brought together."""
        return np.array(
            [
                number
                for number, pair in enumerate(self.cohort.pairs)
                if pair.split == split
                and pair.changed is not None
                and (features.is_registered[number] or not self.settings.preparation.registers)
            ],
            np.intp,
        )

    def _check(self, features: PairFeatures) -> None:
        for split, name in enumerate(("train", "validation", "test")):
            found = {self.cohort.pairs[row].changed for row in self._rows(split, features)}
            if found != {True, False}:
                raise CohortError(
                    f"too few pairs of the {name} split can be registered: changed and unchanged "
                    "ones are needed"
                )

    def _new_head(self, embeddings: NDArray[np.float32]) -> SiameseHead:
        shape = SiameseShape(
            embedding_dim=self.embedder.dim,
            hidden=self.settings.hidden,
            projection=self.settings.projection,
        )
        head = SiameseHead(shape, dropout=self.settings.dropout)
        flat = embeddings.reshape(-1, self.embedder.dim)
        deviation = flat.std(axis=0)
        head.mean.copy_(torch.from_numpy(flat.mean(axis=0)))
        head.scale.copy_(torch.from_numpy(1 / np.where(deviation > 1e-6, deviation, 1.0)))
        return head

    def _train_variant(self, variant: str, features: PairFeatures, report: Progress) -> SiameseHead:
        """Train the head of a variant, or go on; the best epoch's weights, as they are served."""
        settings = self.settings
        seed_all(settings.seed)
        embeddings = cast("NDArray[np.float32]", getattr(features, variant))
        train, validation = (self._rows(split, features) for split in (0, 1))
        head = self._new_head(embeddings[train])
        optimiser = torch.optim.AdamW(
            no_decay_groups(head, settings.weight_decay), lr=settings.learning_rate
        )
        state = self.state.setdefault(variant, {"epoch": 0, "best_auroc": -1.0})
        if state["epoch"]:
            head.load_state_dict(state["head"])
            optimiser.load_state_dict(state["optimiser"])
        labels = np.array([bool(pair.changed) for pair in self.cohort.pairs])
        while state["epoch"] < settings.epochs:
            loss = self._epoch(head, optimiser, embeddings, labels, train, state["epoch"])
            auroc = binary_auroc(labels[validation], compare(head, embeddings[validation])[0])
            state["epoch"] += 1
            if auroc > state["best_auroc"]:
                state["best_auroc"] = auroc
                state["best"] = {name: value.clone() for name, value in head.state_dict().items()}
            state["head"], state["optimiser"] = head.state_dict(), optimiser.state_dict()
            self.folder.save(self.state)
            offset = VARIANTS.index(variant) * settings.epochs
            self.folder.log(
                {
                    "epoch": offset + state["epoch"],
                    f"{variant}_loss": loss,
                    f"{variant}_validation_auroc": auroc,
                }
            )
            report(f"training on {variant} pairs", state["epoch"], settings.epochs)
        # Rounded as the repository stores it, so that the figures are those of what serves.
        head.load_state_dict({name: stored(value).float() for name, value in state["best"].items()})
        return head.eval()

    def _epoch(
        self,
        head: SiameseHead,
        optimiser: torch.optim.Optimizer,
        embeddings: NDArray[np.float32],
        labels: NDArray[np.bool_],
        train: NDArray[np.intp],
        epoch: int,
    ) -> float:
        settings = self.settings
        rng = epoch_rng(settings.seed, epoch)
        torch.manual_seed(settings.seed * 1_000_003 + epoch)
        order = rng.permutation(train)
        steps = max(1, len(order) // settings.batch_size)
        total = 0.0
        head.train()
        for step, rows in enumerate(np.array_split(order, steps)):
            for group in optimiser.param_groups:
                group["lr"] = cosine_schedule(
                    epoch + step / steps,
                    epochs=settings.epochs,
                    warmup=settings.warmup_epochs,
                    peak=settings.learning_rate,
                    low=settings.min_learning_rate,
                )
            changed = torch.from_numpy(labels[rows]).float()
            before, after = _pair_tensors(embeddings[rows], labels[rows], rng)
            logit, distance = head(before, after)
            loss = functional.binary_cross_entropy_with_logits(logit, changed)
            loss = loss + settings.contrastive_weight * contrastive_loss(
                distance, changed, settings.margin
            )
            if not torch.isfinite(loss):
                raise RunError(f"loss is not finite in epoch {epoch + 1}, step {step + 1}")
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            total += loss.item() / steps
        return total

    def _answer(
        self, head: SiameseHead, variant: str, features: PairFeatures
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return compare(head, getattr(features, variant))


def _pair_tensors(
    embeddings: NDArray[np.float32], labels: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Both sides of a batch.

    Unchanged pairs are turned round half the time, and a quarter of them become one image twice:
    the same picture has not changed.
    """
    swaps = ~labels & (rng.random(len(labels)) < 0.5)
    twice = ~labels & (rng.random(len(labels)) < 0.25)
    sides = embeddings.copy()
    sides[swaps] = sides[swaps][:, ::-1]
    sides[twice, 1] = sides[twice, 0]
    return torch.from_numpy(sides[:, 0].copy()), torch.from_numpy(sides[:, 1].copy())


@torch.inference_mode()
def compare(
    head: SiameseHead, embeddings: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and distances (N,) of pairs of embeddings (N, 2, D)."""
    head.eval()
    sides = torch.from_numpy(embeddings)
    logit, distance = head(sides[:, 0], sides[:, 1])
    return logit.numpy(), distance.numpy()


def export(run: Path, repository: Path, provenance: Provenance) -> ChangeManifest:
    """Write a finished run into ``<repository>/change_detection``.

    Raises
    ------
    RunError
        If the run is not finished or cannot be read.
    """
    settings, results, state = read_finished(run, "change", ChangeSettings, RESULTS)
    weights = encode_weights(cast("Mapping[str, Tensor]", state[SERVED]["best"]), half=True)
    figures = held_out(results["figures"], data=DATA, command=provenance.evaluation_command)
    simulation = results["simulation"]
    is_simulated = simulation is not None
    manifest = ChangeManifest(
        name=MODEL_NAME,
        version=provenance.version,
        digest=digest_of(weights),
        data=f"simulated pairs: single dermoscopic images ({simulation}) taken twice, the lesion "
        "grown, darkened or recoloured in half of them"
        if is_simulated
        else "pairs of dermoscopic images with the site's own labels",
        licence=LICENCE,
        citation=CITATION,
        intended_use="Research: whether one lesion changed between two dermoscopic images weeks to "
        "months apart. Not a medical device; stable does not mean benign.",
        training_command=provenance.training_command,
        git_commit=provenance.git_commit,
        created=provenance.created,
        evidence_level="simulated" if is_simulated else "real",
        evidence=evidence_sentence(figures, is_simulated=is_simulated),
        figures=figures,
        embedding_dim=results["embedding_dim"],
        hidden=settings.hidden,
        projection=settings.projection,
        encoder_digest=results["encoder"],
        temperature=results["temperature"],
        threshold=results["threshold"],
        threshold_meaning=f"sensitivity {settings.sensitivity:.2f} for changed validation pairs",
        margin=settings.margin,
        preparation=settings.preparation,
    )
    dims = (manifest.embedding_dim,)
    export_model(
        repository,
        manifest,
        weights,
        backend="models.backends.change_detection:ChangeDetectionBackend",
        inputs=(
            TensorSpec(name="EMBEDDING_BEFORE", kind="FP32", dims=dims),
            TensorSpec(name="EMBEDDING_AFTER", kind="FP32", dims=dims),
        ),
        outputs=(
            TensorSpec(name="CHANGE_LOGIT", kind="FP32", dims=(1,)),
            TensorSpec(name="DISTANCE", kind="FP32", dims=(1,)),
        ),
        max_batch_size=MAX_BATCH_SIZE,
    )
    return manifest
