"""A folder of small drawn images and a toy configuration of pretraining."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.architectures.cae import RegressorShape
from models.shapes import EncoderShape
from training.pretraining.settings import (
    AugmentSettings,
    ClipTeacherSettings,
    EmaTeacherSettings,
    MaskingSettings,
    OptimiserSettings,
    PretrainSettings,
)

EMA = EmaTeacherSettings(
    kind="ema", momentum=0.8, final_momentum=1.0, blocks=2, centre_momentum=0.5
)
CLIP = ClipTeacherSettings(kind="clip")
OPTIMISER = OptimiserSettings(
    batch_size=4,
    epochs=3,
    learning_rate=2e-3,
    min_learning_rate=1e-5,
    warmup_epochs=1,
    weight_decay=0.05,
    betas=(0.9, 0.98),
    clip_norm=3.0,
)


def write_images(folder: Path, count: int = 10, *, side: tuple[int, int] = (40, 56)) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"clinic_{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        centre, radius = rng.uniform(0.3, 0.7, 2) * side, rng.uniform(6, 14)
        inside = np.hypot(*(np.mgrid[: side[0], : side[1]] - centre[:, None, None])) < radius
        pixels = rng.normal(0, 8, (*side, 3)) + rng.uniform(120, 230, 3)
        pixels[inside] = rng.normal(0, 8, (int(inside.sum()), 3)) + rng.uniform(20, 100, 3)
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        picture.save(place / f"image_{number:02d}.png")
    return folder


def toy(**changes: Any) -> PretrainSettings:
    """Settings of a toy; ``optimiser__epochs=1`` changes a nested value."""
    settings = PretrainSettings(
        seed=5,
        precision="float32",
        layer_scale=0.1,
        drop_path=0.2,
        encoder=EncoderShape(dim=16, depth=2, heads=2, mlp_ratio=2, patch_size=8, image_size=32),
        regressor=RegressorShape(depth=1, heads=3),
        masking=MaskingSettings(mode="block", count=8, min_block=3),
        teacher=EMA,
        optimiser=OPTIMISER,
        augment=AugmentSettings(min_crop=0.4, flip_prob=0.5, vertical_flip_prob=0.5, jitter=0.4),
    )
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        group, _, field = name.partition("__")
        nested.setdefault(group, {})[field] = value
    values = {
        group: fields.get("") if "" in fields else replace(getattr(settings, group), **fields)
        for group, fields in nested.items()
    }
    return replace(settings, **values)


def options(data: Path, out: Path, **changes: Any) -> argparse.Namespace:
    values = {
        "data": [data],
        "out": out,
        "teacher": None,
        "start": None,
        "workers": 0,
        "skip_bad": False,
    }
    return argparse.Namespace(**(values | changes))
