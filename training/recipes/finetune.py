"""Recipe of fine-tuning an encoder with a classifier: all of it, adapters, or the head alone.

BEiT v2's fine-tuning as PanDerm uses it. Each epoch draws its order, views and mixing from the
seed and the epoch's number alone, so a run that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from scipy.special import softmax
from torch import Tensor, nn

from models.metrics import Figure, balanced_accuracy
from models.preprocessing import STD, normalise_pixels
from models.weights import encode_weights
from training.backbones import COMPACT, HELP, name_of, notice_of, open_backbone
from training.classification import (
    auroc,
    describe_classifier,
    describe_splits,
    measure_classifier,
    plain_figures,
)
from training.errors import RunError
from training.finetuning.batches import (
    balanced_order,
    draw_test_view,
    draw_train_view,
    frame,
    to_device,
)
from training.finetuning.mixing import mix, soft_cross_entropy, soften
from training.finetuning.networks import (
    Classifier,
    add_adapters,
    build_classifier,
    decay_groups,
    merge_adapters,
    restore_state,
    save_classifier,
    set_training,
    trained_state,
)
from training.finetuning.settings import FinetuneSettings
from training.finetuning.views import TEST_STD
from training.labelled import LabelledSplits, read_labelled
from training.plots import learning_curves
from training.report import Page
from training.runs import (
    Progress,
    RunFolder,
    cosine_schedule,
    device,
    epoch_rng,
    seed_all,
    write_atomically,
)
from training.settings import read_toml

SUMMARY = "fine-tune an encoder with a classifier (full, LoRA, or the head alone)"
BEST = "best.safetensors"
FIGURES = "figures.json"
_EPOCH_SEEDS = 1_000_003  # keeps the seeds of epochs of neighbouring runs apart
_VIEW_STREAM, _TEST_STREAM = 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe's arguments."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, required=True, help="labels.csv and images/")
    parser.add_argument("--backbone", default=COMPACT, help=HELP)
    parser.add_argument("--workers", type=int, default=2, help="threads that read images")


def run(options: argparse.Namespace, report: Progress) -> None:
    """Train to the last epoch, then measure and keep the best one.

    Raises
    ------
    TrainingError
        If the settings, the table, an image or the folder cannot be used.
    ModelError
        If the encoder cannot be loaded.
    """
    settings = read_toml(options.config, FinetuneSettings)
    splits = read_labelled(settings.data, options.data)
    with ThreadPoolExecutor(max(1, options.workers)) as pool:
        training = FinetuneRun(
            settings, splits, backbone=options.backbone, out=options.out, pool=pool
        )
        training.train(report)
        training.finish(report)


class FinetuneRun:
    """One run in one folder, resumable after each epoch.

    Parameters
    ----------
    settings
        The configuration; a folder begun under another one is refused.
    splits
        The cohort.
    backbone
        Which encoder (``training.backbones``); a folder begun with other weights is refused.
    out
        Folder of the run.
    pool
        Threads that read images.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        splits: LabelledSplits,
        *,
        backbone: str,
        out: Path,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.settings = settings
        self.splits = splits
        self.backbone = backbone
        self.pool = pool
        self.device = device()
        self.folder = RunFolder(out, recipe="finetune", settings=settings)
        self.files = {
            name: part.files()
            for name, part in (
                ("train", splits.train),
                ("validation", splits.validation),
                ("test", splits.test),
            )
        }
        encoder, self.digest = open_backbone(backbone)
        seed_all(settings.seed)
        self.model = build_classifier(
            encoder,
            len(splits.labels),
            mode=settings.mode,
            drop_path=settings.regularisation.drop_path,
        )
        self.adapted: Any = None
        if settings.mode == "lora":
            lora = settings.lora
            self.adapted = add_adapters(self.model, rank=lora.rank, alpha=lora.alpha)
        self.model.to(self.device)
        optimiser = settings.optimiser
        groups = decay_groups(
            self.model,
            layer_decay=optimiser.layer_decay,
            weight_decay=optimiser.weight_decay,
        )
        self.optimiser = torch.optim.AdamW(groups, lr=optimiser.learning_rate)
        self.epoch, self.best = 0, float("-inf")
        if (state := self.folder.load()) is not None:
            self._resume(state)

    def _resume(self, state: dict[str, Any]) -> None:
        if state.get("backbone") != self.digest:
            raise RunError(f"{self.folder.folder} was begun with another encoder")
        restore_state(self.model, state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.best = int(state["epoch"]), float(state["best"])

    def train(self, report: Progress) -> None:
        """Train to the last epoch, saving after each.

        Raises
        ------
        CohortError
            If an image cannot be read; it is named.
        RunError
            If the loss is not finite or nothing can be saved.
        """
        while self.epoch < self.settings.epochs:
            loss, rate = self._train_epoch(report)
            figures = self._validate(report)
            self.epoch += 1
            if figures[self._selected()] > self.best:
                self.best = figures[self._selected()]
                # Before the checkpoint: if a kill comes between, the epoch is run again alike.
                self._save_best()
            self.folder.save(
                {
                    "backbone": self.digest,
                    "epoch": self.epoch,
                    "best": self.best,
                    "model": trained_state(self.model),
                    "optimiser": self.optimiser.state_dict(),
                }
            )
            row = {f"validation_{name}": value for name, value in figures.items()}
            self.folder.log({"epoch": self.epoch, "loss": loss, "learning_rate": rate, **row})

    def _selected(self) -> str:
        if self.settings.select == "auto":
            return "auroc" if len(self.splits.labels) == 2 else "accuracy"
        return self.settings.select

    def _save_best(self) -> None:
        content = encode_weights(trained_state(self.model), half=False)
        write_atomically(self.folder.path(BEST), content)

    def _load_best(self) -> dict[str, Tensor]:
        try:
            return dict(parse_safetensors(self.folder.path(BEST).read_bytes()))
        except (OSError, ValueError, SafetensorError) as exc:
            raise RunError(f"{self.folder.folder} holds no readable best epoch") from exc

    def _train_epoch(self, report: Progress) -> tuple[float, float]:
        """Mean loss and last learning rate of one epoch."""
        optimiser = self.settings.optimiser
        seed_all(self.settings.seed * _EPOCH_SEEDS + self.epoch)
        set_training(self.model, self.settings.mode)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        steps = max(1, len(self.files["train"]) // self.settings.batch_size)
        total, rate = 0.0, 0.0
        for step, (images, targets) in enumerate(self._batches(steps)):
            rate = cosine_schedule(
                self.epoch + step / steps,
                epochs=self.settings.epochs,
                warmup=optimiser.warmup_epochs,
                peak=optimiser.learning_rate,
                low=optimiser.min_learning_rate,
            )
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            loss = soft_cross_entropy(self._logits(images), targets)
            if not torch.isfinite(loss):
                raise RunError(f"loss is not finite in epoch {self.epoch + 1}, step {step + 1}")
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            if optimiser.clip_norm:
                nn.utils.clip_grad_norm_(trained, optimiser.clip_norm)
            self.optimiser.step()
            total += loss.item() / steps
            text = f"epoch {self.epoch + 1}/{self.settings.epochs} loss {loss.item():.3f}"
            report(text, step + 1, steps)
        return total, rate

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            return self.model.logits(images).float()

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Balanced draws of the training split, as mixed batches on the device."""
        labels, count = self.splits.train.labels, len(self.splits.labels)
        rng = epoch_rng(self.settings.seed, self.epoch)
        regular = self.settings.regularisation
        order = balanced_order(labels, count, seed=int(rng.integers(2**62)))
        for step in range(steps):
            chosen = order[step * self.settings.batch_size :][: self.settings.batch_size]
            places = range(step * self.settings.batch_size, len(order))
            jobs = [
                (self.files["train"][i], (self.settings.seed, self.epoch, _VIEW_STREAM, place))
                for i, place in zip(chosen, places, strict=False)
            ]
            views = np.stack(list(self.pool.map(draw_train_view, jobs)))
            images, targets = mix(
                torch.from_numpy(normalise_pixels(views)),
                soften(labels[chosen], count, regular.smoothing),
                rng,
                mixup=regular.mixup,
                cutmix=regular.cutmix,
                switch=regular.switch,
            )
            yield images.to(self.device), targets.to(self.device)

    def _validate(self, report: Progress) -> dict[str, float]:
        labels = self.splits.validation.labels
        probabilities = softmax(self.answer("validation", report), axis=1)
        return {
            "auroc": auroc(labels, probabilities),
            "accuracy": float((probabilities.argmax(1) == labels).mean()),
            "recall": balanced_accuracy(labels, probabilities),
        }

    @torch.inference_mode()
    def answer(self, split: str, report: Progress, *, views: int = 0) -> NDArray[np.float64]:
        """Logits (B, C) of a split, of the framed image or as the mean of random views."""
        self.model.eval()
        files, size = self.files[split], self.settings.batch_size
        found = []
        for start in range(0, len(files), size):
            chunk = files[start : start + size]
            if views:
                logits = self._answer_views(chunk, start, views)
            else:
                framings = itertools.repeat(self.settings.framing)
                pixels = np.stack(list(self.pool.map(frame, chunk, framings)))
                logits = self._logits(to_device(pixels, STD, self.device))
            found.append(logits.double().cpu().numpy())
            report(f"{split} images", start + len(chunk), len(files))
        return np.concatenate(found)

    def _answer_views(self, chunk: list[tuple[str, Path]], start: int, views: int) -> Tensor:
        total = torch.zeros(len(chunk), len(self.splits.labels), device=self.device)
        for view in range(views):
            jobs = [
                (entry, (self.settings.seed, view, _TEST_STREAM, start + i))
                for i, entry in enumerate(chunk)
            ]
            pixels = np.stack(list(self.pool.map(draw_test_view, jobs)))
            total += self._logits(to_device(pixels, TEST_STD, self.device)) / views
        return total

    def finish(self, report: Progress) -> None:
        """Measure the best epoch on the test split, write its weights and the report."""
        best = self._load_best()
        restore_state(self.model, best)
        finished: Classifier = self.model
        if self.adapted is not None:
            finished = self.model = merge_adapters(self.adapted)
        test = self.splits.test
        answers = {"framed image": softmax(self.answer("test", report), axis=1)}
        if self.settings.test_views:
            name = f"mean of {self.settings.test_views} views"
            logits = self.answer("test", report, views=self.settings.test_views)
            answers[name] = softmax(logits, axis=1)
        figures = {
            name: measure_classifier(
                test.labels, answer, test.groups, replicates=self.settings.replicates
            )
            for name, answer in answers.items()
        }
        plain = {name: plain_figures(each) for name, each in figures.items()}
        self.folder.write_json(FIGURES, plain)
        description: dict[str, object] = {
            "labels": list(self.splits.labels),
            "framing": self.settings.framing,
            "mode": self.settings.mode,
            "started_from": self.digest,
        }
        save_classifier(finished.cpu(), self.folder.folder, description)
        self._describe(answers, figures, sum(value.numel() for value in best.values()))

    def _describe(
        self,
        answers: dict[str, NDArray[np.float64]],
        figures: dict[str, dict[str, Figure]],
        trained: int,
    ) -> None:
        page = Page("Fine-tuning")
        if notice_of(self.backbone):
            page.notice(notice_of(self.backbone))
        page.table(
            "Run",
            [
                {"what": "started from", "value": name_of(self.backbone)},
                {"what": "digest of the start weights", "value": self.digest},
                {"what": "mode", "value": self.settings.mode},
                {"what": "numbers trained (with running statistics)", "value": f"{trained:,}"},
                {"what": f"best validation {self._selected()}", "value": f"{self.best:.4f}"},
                {"what": "epochs", "value": str(self.epoch)},
            ],
        )
        describe_splits(page, self.splits)
        page.figure("Learning curves", learning_curves(self.folder.history))
        rows = [{"answer": name, **each} for name, each in figures.items()]
        page.table("Test split, 95 % intervals over groups", rows)
        first = next(iter(answers.values()))
        describe_classifier(page, self.splits.test, first, self.splits.labels)
        page.write(self.folder.path("report.html"))
