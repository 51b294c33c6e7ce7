"""The model card: what a manifest says, for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LEVELS = {
    "real": "real images or patients, real labels, held-out patients or lesions",
    "simulated": "trained or evaluated on **simulated** labels, pairs or bags: it shows that the "
    "path works, not that the answers are right",
    "none": "nothing was measured",
}


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown text of the card of one manifest.

    Parameters
    ----------
    manifest
        Plain content of a ``manifest.json``, of any kind of model.
    """
    lines = [
        f"# `{manifest['name']}` {manifest['version']}",
        "",
        "Generated from `manifest.json`; do not edit.",
        "",
        "**Research use only. Not a medical device.**",
        "",
        f"**Evidence: {manifest['evidence_level']}** ({_LEVELS[manifest['evidence_level']]}).",
        manifest["evidence"],
        "",
        "| | |",
        "|---|---|",
    ]
    rows = {
        "Intended use": manifest["intended_use"],
        "Data": manifest["data"],
        "Licence": manifest["licence"],
        "Citation": manifest["citation"],
        "Made by": f"`{manifest['training_command']}`",
        "Code": manifest["git_commit"],
        "Exported": manifest["created"],
        "Weights": f"SHA-256 `{manifest['digest']}`",
    }
    lines += [f"| {name} | {_cell(text)} |" for name, text in rows.items()]
    return "\n".join([*lines, *_figures(manifest["figures"])]) + "\n"


def _figures(figures: list[Mapping[str, Any]]) -> list[str]:
    """One table for each set of data, with the command that repeats it."""
    lines: list[str] = []
    for data in dict.fromkeys(figure["data"] for figure in figures):
        rows = [figure for figure in figures if figure["data"] == data]
        lines += [
            "",
            f"## {data}",
            "",
            "| figure | value | 95 % interval | n | groups |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {_cell(row['metric'])} | {row['value']:.3f} | {_interval(row)} | {row['n']} "
            f"| {row['groups']} |"
            for row in rows
        ]
        for command in dict.fromkeys(row["command"] for row in rows):
            lines += ["", "```", command, "```"]
    return lines


def _interval(figure: Mapping[str, Any]) -> str:
    if figure["low"] is None:
        return "not defined"
    return f"{figure['low']:.3f} to {figure['high']:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
