"""Backbones by name, for the recipes: the compact one from its package, others from files."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from models.architectures.backbones import load_backbone
from training.pretrained import DIGESTS, load_compact

COMPACT = "compact"
HELP = (
    "compact (ImageNet start weights; also compact:lite1, compact:lite2), compact:PATH, "
    "panderm:PATH, onnx:PATH or export:PATH"
)
PANDERM_NOTICE = (
    "The encoder is a PanDerm file that this site brought. PanDerm's weights are licensed "
    "CC BY-NC-ND 4.0: academic, non-commercial use only, no redistribution of adapted weights."
)


def open_backbone(spec: str) -> tuple[nn.Module, str]:
    """Load the backbone of a command line.

    Parameters
    ----------
    spec
        ``compact`` or ``compact:VARIANT`` for the start weights of the installed package, else
        as for ``models.architectures.backbones.load_backbone``.

    Returns
    -------
    tuple
        The backbone in evaluation mode, and the SHA-256 of its file.

    Raises
    ------
    PretrainedError
        If the package of the start weights is not installed.
    ModelError
        If a file cannot be loaded as what it is said to be.
    """
    kind, _, place = spec.partition(":")
    variant = place or "lite0"
    if spec != f"{COMPACT}:" and kind == COMPACT and (variant in DIGESTS):
        return load_compact(variant).requires_grad_(False), DIGESTS[variant]
    return load_backbone(spec)


def notice_of(spec: str) -> str:
    """Remark that a report on this backbone must carry; empty for none."""
    return PANDERM_NOTICE if spec.startswith("panderm:") else ""


def name_of(spec: str) -> str:
    """Spec without the folders, for reports."""
    kind, separator, place = spec.partition(":")
    return f"{kind}{separator}{Path(place).name}"
