"""What is fine-tuned: classifiers on a vision transformer or the compact network, and how.

Layer decay, adapters (LoRA), frozen parts, and reading a finished classifier back.
"""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.architectures.checkpoint import read_checkpoint
from models.architectures.efficientnet_lite import EfficientNetLite
from models.architectures.panderm import (
    HEAD_INIT_SCALE,
    PandermEncoder,
    fine_tuning_model,
    load_encoder,
)
from models.shapes import EfficientNetLiteShape
from models.weights import encode_weights, fill
from training.errors import RunError, SettingsError
from training.runs import write_atomically

Mode = Literal["full", "lora", "head"]
ADAPTED = r".*\.attn\.(qkv|proj)"
"""Layers with an adapter: the attention's projections, and not that of the patches."""
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
ENCODER = "encoder.safetensors"


class ConvClassifier(nn.Module):
    """The compact network with a linear classifier on its embedding.

    Parameters
    ----------
    shape
        Which of the published sizes.
    num_labels
        Labels C.
    drop_path
        Probability of leaving out the last residual branch, training only.
    """

    def __init__(
        self, shape: EfficientNetLiteShape, num_labels: int, *, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone = EfficientNetLite(shape, drop_path=drop_path)
        self.head = nn.Linear(self.backbone.dim, num_labels)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(HEAD_INIT_SCALE)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, C) of (B, 3, 224, 224) normalised images."""
        found: Tensor = self.head(self.backbone(images))
        return found


Classifier = PandermEncoder | ConvClassifier


def build_classifier(
    backbone: nn.Module, num_labels: int, *, mode: Mode, drop_path: float
) -> Classifier:
    """Classifier that starts from a loaded backbone; its head's values come from torch's seed.

    Parameters
    ----------
    backbone
        PanDerm encoder or EfficientNet-Lite; it is copied.
    num_labels
        Labels C.
    mode
        ``full``: everything is trained (but ``pos_embed``); ``head``: the classifier alone;
        ``lora``: the classifier and, once added by ``add_adapters``, the adapters.
    drop_path
        Stochastic depth of the last block, in [0, 1).

    Raises
    ------
    SettingsError
        If this backbone cannot be trained so.
    """
    model: Classifier
    if isinstance(backbone, PandermEncoder):
        model = fine_tuning_model(backbone, num_labels, drop_path=drop_path)
    elif isinstance(backbone, EfficientNetLite):
        if mode == "lora":
            raise SettingsError("adapters (mode lora) need a vision transformer")
        model = ConvClassifier(backbone.shape, num_labels, drop_path=drop_path)
        model.backbone.load_state_dict(backbone.state_dict())
    else:
        raise SettingsError("a network of another format cannot be fine-tuned; use the probe")
    if mode != "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
    return model


def add_adapters(model: Classifier, *, rank: int, alpha: float) -> Any:
    """Put low-rank adapters beside the attention's projections, in place.

    Parameters
    ----------
    rank
        Rank r of the update W + (alpha / r) B A.
    alpha
        Its scale.

    Returns
    -------
    peft.PeftModel
        Keeps what ``merge_adapters`` needs. Only the adapters and the classifier are trainable.

    Raises
    ------
    SettingsError
        If the package ``peft`` is not installed.

    References
    ----------
    Hu et al., LoRA, ICLR 2022, eq. 3.
    """
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError as exc:
        raise SettingsError("mode lora needs the package peft (extra `training`)") from exc
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=ADAPTED, bias="none"
    )
    adapted = peft.get_peft_model(model, config)
    for parameter in model.head.parameters():
        parameter.requires_grad_(True)
    return adapted


def merge_adapters(adapted: Any) -> Classifier:
    """Add the adapters to the weights: the result has the published keys again."""
    merged: Classifier = adapted.merge_and_unload()
    return merged


def set_training(model: Classifier, mode: Mode) -> None:
    """Training mode, but frozen parts keep their statistics and drop nothing."""
    model.train()
    if mode == "head":
        model.eval()


def layer_number(name: str, depth: int) -> int:
    """Number of the layer of a parameter: 0 for the embeddings, ``depth + 1`` for the head.

    Parameters
    ----------
    name
        Name of the parameter in a ``Classifier``.
    depth
        Blocks of the transformer; stages of the compact network and its last convolution.
    """
    if found := re.match(r"(?:encoder\.blocks|backbone\.stages)\.(\d+)\.", name):
        return int(found[1]) + 1
    if name.startswith("backbone.head."):
        return depth
    is_head = name.startswith(("fc_norm.", "head.", "encoder.norm."))
    return depth + 1 if is_head else 0


def depth_of(model: Classifier) -> int:
    """Layers between the embeddings and the head."""
    if isinstance(model, ConvClassifier):
        return len(model.backbone.stages) + 1
    return model.shape.depth


def decay_groups(
    model: Classifier, *, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of AdamW; ``scale`` is a group's factor on the learning rate.

    Parameters
    ----------
    layer_decay
        Factor per layer from the head down: layer i of L has ``layer_decay ** (L + 1 - i)``.
        Adapters are not decayed by layer.
    weight_decay
        For matrices and kernels; none on vectors, biases, ``cls_token`` and ``pos_embed``.

    References
    ----------
    Bao et al., BEiT, ICLR 2022, appendix; Clark et al., ELECTRA, ICLR 2020 (layer-wise decay).
    """
    depth = depth_of(model)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        number = depth + 1 if ".lora_" in name else layer_number(name, depth)
        is_free = parameter.ndim <= 1 or name.endswith(("bias", "cls_token", "pos_embed"))
        group = groups.setdefault(
            (number, is_free),
            {
                "params": [],
                "weight_decay": 0.0 if is_free else weight_decay,
                "scale": layer_decay ** (depth + 1 - number),
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters and running statistics, as copies."""
    state: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    state |= {name: b for name, b in model.named_buffers() if b.is_floating_point() or b.ndim == 0}
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def restore_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what ``trained_state`` took.

    Raises
    ------
    RunError
        If the state is another network's.
    """
    mine = dict(model.named_parameters()) | dict(model.named_buffers())
    if set(state) != set(trained_state(model)):
        raise RunError("the checkpoint holds the state of another network")
    with torch.no_grad():
        for name, value in state.items():
            if mine[name].shape != value.shape:
                raise RunError(f"the checkpoint's {name} has another shape")
            mine[name].copy_(value)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A classifier read back from the folder of its run."""

    model: Classifier
    """In evaluation mode, float32, on the CPU."""
    labels: tuple[str, ...]
    """Labels in the order of the logits."""
    framing: str
    """How images are framed (``training.features.extraction.FRAMINGS``)."""
    digest: str
    """SHA-256 of the weights."""


def save_classifier(model: Classifier, folder: Path, description: dict[str, object]) -> None:
    """Write a finished classifier.

    A transformer is written under the published keys, so ``panderm:model.safetensors`` reads it;
    of the compact network the encoder is written too, for ``compact:encoder.safetensors``.
    """
    is_conv = isinstance(model, ConvClassifier)
    state = model.state_dict() if isinstance(model, ConvClassifier) else model.published_state()
    write_atomically(folder / WEIGHTS, encode_weights(state, half=False))
    if isinstance(model, ConvClassifier):
        content = encode_weights(model.backbone.state_dict(), half=False)
        write_atomically(folder / ENCODER, content)
        description = description | {"variant": model.backbone.shape.variant}
    else:
        description = description | {"heads": model.shape.heads}
    text = json.dumps({"kind": "conv" if is_conv else "vit", **description}, indent=2)
    write_atomically(folder / DESCRIPTION, (text + "\n").encode())


def load_classifier(folder: Path) -> Finished:
    """Read what ``save_classifier`` wrote.

    Raises
    ------
    RunError
        If the description is missing or damaged.
    WeightsError
        If the weights do not fit.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        labels = tuple(str(label) for label in description["labels"])
        framing, kind = str(description["framing"]), description["kind"]
        size = description["heads"] if kind == "vit" else description["variant"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise RunError(f"{folder} holds no finished classifier") from exc
    model: Classifier
    if kind == "vit":
        model = load_encoder(folder / WEIGHTS, heads=size)
        digest = model.digest
    else:
        model = ConvClassifier(EfficientNetLiteShape(variant=size), len(labels))
        tensors, digest = read_checkpoint(folder / WEIGHTS)
        fill(model, tensors)
    return Finished(model=model.eval(), labels=labels, framing=framing, digest=digest)
