"""Recipe of pretraining: masked latent alignment (CAE v2) on unlabelled images.

With a frozen CLIP tower as teacher, as PanDerm was trained, or with the encoder's own moving
average where no CLIP weights are. One process or many (torchrun): together they take the same
images, crops and masks in the same steps. An epoch draws everything from the seed and its number,
so that a run that was killed goes on as if it had not been, also under another number of processes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.architectures.cae import CaeNetwork, alignment_loss
from models.architectures.panderm import load_encoder
from training.augment import normalise
from training.errors import CohortError, PretrainedError, RunError, SettingsError
from training.pretraining.monitor import embed, measure_spread
from training.pretraining.page import Findings, write_page
from training.pretraining.processes import World, joined
from training.pretraining.results import write_results
from training.pretraining.settings import EmaTeacherSettings, PretrainSettings
from training.pretraining.stream import (
    MaskedBatch,
    MaskedImages,
    epoch_order,
    list_images,
    load_epoch,
    load_views,
)
from training.pretraining.teachers import ClipTeacher, EmaTeacher, Teacher
from training.runs import Progress, RunFolder, cosine_schedule, no_decay_groups, seed_all
from training.settings import read_toml

SUMMARY = "pretrain an encoder on unlabelled images by masked latent alignment"
MONITORED = 256  # images whose spread is measured after each epoch
SHOWN = 1024  # images among which the page looks for neighbours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="folders of images, searched to any depth, or CSV files with a column `path`",
    )
    parser.add_argument("--teacher", type=Path, help="folder of a CLIP model (teacher `clip`)")
    parser.add_argument("--start", type=Path, help="checkpoint whose encoder to start from")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out images that cannot be decoded, list them"
    )


def run(options: argparse.Namespace, report: Progress) -> None:
    """Pretrain to the end; write weights, card and page.

    Raises
    ------
    TrainingError
        Of the kind that fits, when settings, images, teacher or run folder cannot be used.
    """
    settings = read_toml(options.config, PretrainSettings)
    with joined() as world:
        training = PretrainRun(settings, options, world)
        training.train(report if world.is_first else _silent)
    # Alone again: listing millions of images would outlast the others' patience.
    if world.is_first:
        training.finish(report)


def _silent(_text: str, _done: int, _total: int) -> None:
    """Progress of all processes but the first."""


class PretrainRun:
    """One pretraining run in one folder, resumable after each epoch.

    Parameters
    ----------
    settings
        The configuration; a folder begun under another one is refused.
    options
        The command's arguments.
    world
        This process among those of the run. All of them read the same folder.

    Raises
    ------
    CohortError
        If the images cannot be used or do not fill one batch.
    PretrainedError
        If the teacher or the start weights cannot be used.
    RunError
        If the folder cannot be used, or was begun with other images or another teacher.
    """

    def __init__(
        self, settings: PretrainSettings, options: argparse.Namespace, world: World
    ) -> None:
        self.settings = settings
        self.world = world
        self.workers: int = options.workers
        self.skip_bad: bool = options.skip_bad
        if self.workers < 0:
            raise SettingsError(f"--workers {self.workers} must not be negative")
        world.share(settings.optimiser.batch_size)
        self.images = list_images(options.data)
        self.steps = len(self.images.paths) // settings.optimiser.batch_size
        if not self.steps:
            raise CohortError(
                f"{len(self.images.paths)} images are fewer than a batch of "
                f"{settings.optimiser.batch_size}"
            )
        # The first makes the folder and fixes its settings before the others look at it.
        if world.is_first:
            self.folder = RunFolder(options.out, recipe="pretrain", settings=settings)
        world.wait()
        if not world.is_first:
            self.folder = RunFolder(options.out, recipe="pretrain", settings=settings)
        seed_all(settings.seed)
        self._build(options)
        self.epoch = 0
        self.bad: list[str] = []
        self._resume()

    def _build(self, options: argparse.Namespace) -> None:
        settings, world = self.settings, self.world
        clip = _clip_teacher(settings, options.teacher)
        self.student = CaeNetwork(
            settings.encoder,
            target_dim=settings.encoder.dim if clip is None else clip.dim,
            regressor=settings.regressor,
            layer_scale=settings.layer_scale,
            drop_path=settings.drop_path,
        )
        self.start_digest = ""
        if options.start is not None:
            self.start_digest = _start_from(self.student, options.start)
        self.student.to(world.device)
        self.teacher: Teacher
        if isinstance(settings.teacher, EmaTeacherSettings):
            ema = EmaTeacher(self.student.encoder, settings.teacher, world)
            self.teacher = ema.to(world.device)
        elif clip is not None:
            self.teacher = clip.to(world.device)
        self.optimiser = torch.optim.AdamW(
            no_decay_groups(self.student, settings.optimiser.weight_decay),
            lr=settings.optimiser.learning_rate,
            betas=(settings.optimiser.betas[0], settings.optimiser.betas[1]),
        )
        self.network: nn.Module = self.student
        if world.size > 1:
            places = [world.device] if world.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.student, device_ids=places)

    def _origin(self) -> dict[str, str]:
        """What else decides the weights and must be the same when a run goes on."""
        return {
            "images": self.images.digest(),
            "teacher": self.teacher.digest,
            "start": self.start_digest,
        }

    def _resume(self) -> None:
        state = self.folder.load()
        if state is None:
            return
        changed = [name for name, value in self._origin().items() if state["origin"][name] != value]
        if changed:
            raise RunError(f"{self.folder.folder} was begun with other {' and '.join(changed)}")
        try:
            self.student.load_state_dict(state["student"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.teacher.restore(state["teacher"])
        except (RuntimeError, ValueError) as exc:
            raise RunError(f"{self.folder.folder} holds a checkpoint that does not fit") from exc
        self.epoch = state["epoch"]
        self.bad = state["bad"]

    def _save(self, row: dict[str, float]) -> None:
        self.folder.log(row)  # before the checkpoint: an epoch run again replaces its row
        self.folder.save(
            {
                "epoch": self.epoch,
                "origin": self._origin(),
                "student": self.student.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "teacher": self.teacher.checkpoint(),
                "bad": self.bad,
            }
        )

    def train(self, report: Progress) -> None:
        """Train to the last epoch, saving after each.

        Parameters
        ----------
        report
            Called with a description, steps done and steps in all.

        Raises
        ------
        CohortError
            If an image cannot be decoded and may not be skipped.
        RunError
            If the loss is not finite, or a checkpoint cannot be written.
        """
        epochs = self.settings.optimiser.epochs
        views = None
        while self.epoch < epochs:
            started = time.monotonic()
            losses = self._train_epoch(report)
            self.epoch += 1
            if self.world.is_first:
                if views is None:
                    views = self._views(MONITORED, report)
                spread = measure_spread(embed(self.student.encoder, views, self.world.device))
                seconds = round(time.monotonic() - started, 1)
                self._save(
                    {"epoch": self.epoch}
                    | losses
                    | {"feature_std": spread.std, "feature_rank": spread.rank, "seconds": seconds}
                )
            self.world.wait()

    def _views(self, count: int, report: Progress) -> NDArray[np.uint8]:
        """Some images without augmentation: the same in each epoch, spread over the whole list."""
        total = len(self.images.paths)
        numbers = np.random.default_rng(self.settings.seed).permutation(total)[:count].tolist()
        return load_views(
            self.images,
            numbers,
            side=self.settings.encoder.image_size,
            done=lambda done: report("reading images to watch", done, len(numbers)),
        )

    def _train_epoch(self, report: Progress) -> dict[str, float]:
        settings, world = self.settings, self.world
        # Drop path differs between processes, as their images do.
        seed_all(settings.seed * 1_000_003 + self.epoch * world.size + world.rank)
        stream = MaskedImages(self.images, settings, epoch=self.epoch, skip_bad=self.skip_bad)
        order = epoch_order(
            len(stream), settings, epoch=self.epoch, rank=world.rank, world_size=world.size
        )
        totals = torch.zeros(4, device=world.device)
        bad: list[str] = []
        self.network.train()
        for step, batch in enumerate(load_epoch(stream, order, workers=self.workers)):
            losses = self._step(batch, self.epoch + step / self.steps)
            totals += losses
            bad += batch.bad
            text = f"epoch {self.epoch + 1}/{settings.optimiser.epochs} loss {losses[0]:.3f}"
            report(text, step + 1, self.steps)
        self.bad = sorted(set(self.bad) | set(world.gather(bad)))
        means = (world.mean(totals) / self.steps).tolist()
        names = ("loss", "class_loss", "visible_loss", "masked_loss")
        rate = self.optimiser.param_groups[0]["lr"]
        return dict(zip(names, means, strict=True)) | {"learning_rate": rate}

    def _step(self, batch: MaskedBatch, progress: float) -> Tensor:
        """One step; the losses of all, class, visible and masked tokens, detached."""
        settings, optimiser, device = self.settings, self.settings.optimiser, self.world.device
        for group in self.optimiser.param_groups:
            group["lr"] = cosine_schedule(
                progress,
                epochs=optimiser.epochs,
                warmup=optimiser.warmup_epochs,
                peak=optimiser.learning_rate,
                low=optimiser.min_learning_rate,
            )
        pixels = batch.images.to(device, non_blocking=True).float() / 255
        masked = batch.masked.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            targets = self.teacher(pixels)
            predictions = self.network(normalise(pixels), masked)
        tokens = alignment_loss(predictions, targets)
        loss = tokens.mean()
        if not torch.isfinite(loss):
            raise RunError(f"loss is not finite in epoch {self.epoch + 1}")
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.student.parameters(), optimiser.clip_norm)
        self.optimiser.step()
        self.teacher.follow(self.student.encoder, (progress + 1 / self.steps) / optimiser.epochs)
        patches = tokens.detach()[:, 1:]
        parts = (loss, tokens[:, 0].mean(), patches[~masked].mean(), patches[masked].mean())
        return torch.stack([part.detach() for part in parts])

    def finish(self, report: Progress) -> None:
        """Write weights, card, lists of images and the page."""
        views = self._views(SHOWN, report)
        findings = Findings(
            settings=self.settings,
            images=self.images,
            teacher=self.teacher.description,
            origin=self._origin(),
            history=self.folder.history,
            bad=self.bad,
            features=embed(self.student.encoder, views, self.world.device),
            views=views,
        )
        write_results(self.folder, self.student, findings, report)
        write_page(findings, self.folder.path("report.html"))


def _clip_teacher(settings: PretrainSettings, folder: Path | None) -> ClipTeacher | None:
    if isinstance(settings.teacher, EmaTeacherSettings):
        if folder is not None:
            raise SettingsError("--teacher is given, but teacher.kind is not clip")
        return None
    if folder is None:
        raise SettingsError("teacher.kind is clip: --teacher must name its folder")
    return ClipTeacher(folder, grid=settings.encoder.grid)


def _start_from(student: CaeNetwork, path: Path) -> str:
    """Fill the student's encoder from a pretrained file; its digest."""
    found = load_encoder(path, heads=student.shape.heads)
    if found.is_fine_tuned or found.shape != student.shape:
        raise PretrainedError(f"{path.name}: not a pretrained encoder of the configured shape")
    student.encoder.load_state_dict(found.published_state())
    return found.digest
