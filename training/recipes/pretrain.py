"""Recipe of pretraining: masked latent alignment (CAE v2) on unlabelled images.

With a frozen CLIP tower as teacher, as PanDerm was trained, or with the encoder's own moving
average where no CLIP weights are. One process or many (torchrun): together they take the same
images, crops and masks in the same steps. An epoch draws everything from the seed and its number,
so that a run that was killed goes on as if it had not been, also under another number of processes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.architectures.cae import CaeNetwork, alignment_loss
from models.architectures.panderm import load_encoder
from training.augment import normalise
from training.errors import CohortError, PretrainedError, RunError, SettingsError
from training.pretraining.monitor import embed, measure_spread, parameter_count
from training.pretraining.page import Findings, write_page
from training.pretraining.processes import World, joined
from training.pretraining.settings import ClipTeacherSettings, PretrainSettings
from training.pretraining.stream import (
    ImageList,
    MaskedBatch,
    MaskedImages,
    epoch_order,
    list_images,
    load_epoch,
    load_views,
)
from training.runs import (
    Progress,
    RunFolder,
    cosine_schedule,
    no_decay_groups,
    seed_all,
    write_atomically,
)
from training.settings import read_toml
from training.teachers import ClipTeacher, EmaTeacher, momentum_at

SUMMARY = "pretrain an encoder on unlabelled images by masked latent alignment"
WEIGHTS = "encoder.pth"
CARD = "pretraining.json"
BAD_IMAGES = "bad_images.csv"
USED_IMAGES = "images.csv"
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
        if world.is_first:
            training.finish(report)
        world.wait()


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
        settings, device = self.settings, self.world.device
        teacher = settings.teacher
        clip = None
        if isinstance(teacher, ClipTeacherSettings):
            if options.teacher is None:
                raise SettingsError("teacher.kind is clip: --teacher must name its folder")
            clip = ClipTeacher(options.teacher, grid=settings.encoder.grid).to(device)
        elif options.teacher is not None:
            raise SettingsError("--teacher is given, but teacher.kind is not clip")
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
        self.student.to(device)
        self.teacher: ClipTeacher | EmaTeacher
        if clip is not None:
            self.teacher = clip
        else:
            assert not isinstance(teacher, ClipTeacherSettings)
            self.teacher = EmaTeacher(
                self.student.encoder,
                blocks=teacher.blocks,
                centre_momentum=teacher.centre_momentum,
                world=self.world,
            ).to(device)
        self.optimiser = torch.optim.AdamW(
            _parameter_groups(self.student, settings.optimiser.weight_decay),
            lr=settings.optimiser.learning_rate,
            betas=(settings.optimiser.betas[0], settings.optimiser.betas[1]),
            eps=1e-8,
        )
        self.network: nn.Module = self.student
        if self.world.size > 1:
            places = [device] if device.type == "cuda" else None
            self.network = DistributedDataParallel(self.student, device_ids=places)

    def _origin(self) -> dict[str, str]:
        """What else decides the weights and must be the same when a run goes on."""
        teacher = self.teacher.digest if isinstance(self.teacher, ClipTeacher) else ""
        return {
            "images": self.images.digest(),
            "teacher": teacher,
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
            if isinstance(self.teacher, EmaTeacher):
                self.teacher.load_state_dict(state["teacher"])
        except (RuntimeError, ValueError) as exc:
            raise RunError(f"{self.folder.folder} holds a checkpoint that does not fit") from exc
        self.epoch = state["epoch"]
        self.bad = state["bad"]

    def _save(self, row: dict[str, float]) -> None:
        is_ema = isinstance(self.teacher, EmaTeacher)
        self.folder.log(row)  # before the checkpoint: an epoch run again replaces its row
        self.folder.save(
            {
                "epoch": self.epoch,
                "origin": self._origin(),
                "student": self.student.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "teacher": self.teacher.state_dict() if is_ema else {},
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
                    views = self._views(MONITORED, report)[1]
                spread = measure_spread(embed(self.exported, views, self.world.device))
                seconds = round(time.monotonic() - started, 1)
                self._save(
                    {"epoch": self.epoch}
                    | losses
                    | {"feature_std": spread.std, "feature_rank": spread.rank, "seconds": seconds}
                )
            self.world.wait()

    def _views(self, count: int, report: Progress) -> tuple[list[int], Any]:
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
        if isinstance(self.teacher, EmaTeacher):
            self._follow(progress + 1 / self.steps)
        patches = tokens.detach()[:, 1:]
        parts = (loss, tokens[:, 0].mean(), patches[~masked].mean(), patches[masked].mean())
        return torch.stack([part.detach() for part in parts])

    def _follow(self, progress: float) -> None:
        teacher = self.settings.teacher
        assert isinstance(self.teacher, EmaTeacher)
        assert not isinstance(teacher, ClipTeacherSettings)
        momentum = momentum_at(
            progress / self.settings.optimiser.epochs,
            start=teacher.momentum,
            end=teacher.final_momentum,
        )
        self.teacher.follow(self.student.encoder, momentum)

    @property
    def exported(self) -> nn.Module:
        """The encoder that the run is for."""
        return self.student.encoder

    def finish(self, report: Progress) -> None:
        """Write weights, card, lists of images and the page."""
        content = io.BytesIO()
        torch.save({k: v.detach().cpu() for k, v in self.student.state_dict().items()}, content)
        write_atomically(self.folder.path(WEIGHTS), content.getvalue())
        self._write_lists(report)
        self.folder.write_json(
            CARD,
            {
                "weights": WEIGHTS,
                "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
                "images": len(self.images.paths),
                "bad_images": len(self.bad),
                "epochs": self.epoch,
                "parameters": parameter_count(self.student.encoder),
                "origin": self._origin(),
                "encoder": asdict(self.settings.encoder),
                "last_epoch": self.folder.history[-1],
            },
        )
        kept, views = self._views(SHOWN, report)
        write_page(
            Findings(
                settings=self.settings,
                images=self.images,
                teacher=self._describe_teacher(),
                history=self.folder.history,
                bad=self.bad,
                features=embed(self.exported, views, self.world.device),
                views=views,
                names=[self.images.names[number] for number in kept],
            ),
            self.folder.path("report.html"),
        )

    def _describe_teacher(self) -> str:
        if isinstance(self.teacher, EmaTeacher):
            return "Teacher: the encoder's own moving average (no CLIP weights)."
        kind = "with" if self.teacher.is_projected else "without"
        return f"Teacher: CLIP {kind} projection, weights {self.teacher.digest[:12]}."

    def _write_lists(self, report: Progress) -> None:
        """List what was used, with digests by which an overlap with test images can be found."""
        bad = set(self.bad)
        used = []
        for number, (path, name) in enumerate(
            zip(self.images.paths, self.images.names, strict=True), start=1
        ):
            if name not in bad:
                used.append((name, _file_digest(path)))
            report("listing images", number, len(self.images.paths))
        _write_table(self.folder.path(USED_IMAGES), ("path", "sha256"), used)
        _write_table(self.folder.path(BAD_IMAGES), ("path",), [(name,) for name in self.bad])


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as exc:
        raise CohortError(f"{path.name}: {exc.strerror}") from exc


def _write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _parameter_groups(student: CaeNetwork, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of AdamW; the mask token is spared like the class token."""
    decayed, free = no_decay_groups(student, weight_decay)
    decayed["params"] = [p for p in decayed["params"] if p is not student.mask_token]
    free["params"] = [p for p in free["params"] if p is not student.mask_token]
    free["params"].append(student.mask_token)
    return [decayed, free]


def _start_from(student: CaeNetwork, path: Path) -> str:
    """Fill the student's encoder from a pretrained file; its digest."""
    found = load_encoder(path, heads=student.shape.heads)
    if found.is_fine_tuned or found.shape != student.shape:
        raise PretrainedError(f"{path.name}: not a pretrained encoder of the configured shape")
    student.encoder.load_state_dict(found.published_state())
    return found.digest
