"""A small drawn cohort: labels differ in the colour of the spot, masks show where it is."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.settings import TrainingSettings, settings_from_dict

COLOURS = {"nv": (90, 60, 50), "mel": (30, 25, 40), "bcc": (200, 90, 100)}


def write_cohort(folder: Path, *, groups: int = 30, side: tuple[int, int] = (48, 64)) -> Path:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for group in range(groups):
        label = list(COLOURS)[group % 3]
        for image in range(1 + group % 2):
            name = f"IMG_{group:03d}_{image}"
            centre, radius = rng.uniform(0.35, 0.65, 2) * side, rng.uniform(8, 14)
            inside = np.hypot(*(np.mgrid[: side[0], : side[1]] - centre[:, None, None])) < radius
            pixels = np.full((*side, 3), (210, 160, 140)) + rng.normal(0, 8, (*side, 3))
            pixels[inside] = np.array(COLOURS[label]) + rng.normal(0, 8, (inside.sum(), 3))
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(folder / "images" / f"{name}.png")
            Image.fromarray(inside).save(folder / "masks" / f"{name}.png")
            rows.append({"image_id": name, "dx": label, "group_id": f"L{group:03d}"})
    with (folder / "labels.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def plain_settings(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "recipe": "diagnosis",
        "seed": 1,
        "data": {
            "image_column": "image_id",
            "label_column": "dx",
            "group_column": "group_id",
            "label_map": {"nv": "NV", "mel": "MEL", "bcc": "BCC"},
            "train_fraction": 0.6,
            "validation_fraction": 0.2,
            "split_seed": 3,
        },
        "network": {
            "backbone": {
                "kind": "vit_pyramid",
                "encoder": {
                    "dim": 16,
                    "depth": 1,
                    "heads": 2,
                    "mlp_ratio": 4,
                    "patch_size": 16,
                    "image_size": 224,
                },
                "prior_width": 4,
                "taps": [],
            },
            "start": "random",
            "frozen_stages": 0,
            "decoder_width": 8,
            "drop_path": 0.1,
            "dropout": 0.1,
        },
        "stages": [{"epochs": 2, "size": 32}, {"epochs": 1, "size": 64}],
        "optimiser": {
            "batch_size": 8,
            "learning_rate": 2e-3,
            "backbone_rate": 1.0,
            "min_learning_rate": 1e-5,
            "warmup_epochs": 0.5,
            "weight_decay": 0.05,
            "clip_norm": 1.0,
            "ema_decay": 0.9,
            "label_smoothing": 0.05,
            "balance": 0.5,
            "lesion_weight": 1.0,
        },
        "augment": {
            "rotation": 180,
            "scale": 1.2,
            "aspect": 1.1,
            "shift": 0.1,
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
            "tint": 0.05,
            "gamma": 1.2,
            "hair_prob": 0.5,
            "vignette_prob": 0.5,
            "blur_prob": 0.5,
            "erase_prob": 0.5,
            "mixup_prob": 0.5,
            "mixup_alpha": 0.3,
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return content


def tiny_settings(**changes: Any) -> TrainingSettings:
    return settings_from_dict(plain_settings(**changes))
