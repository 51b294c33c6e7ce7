"""One self-contained HTML page for a run: text, tables, figures and example images.

Everything lies inside the file (figures as SVG or PNG in data URIs, one inline style sheet, no
script), so that it can be mailed, printed and opened in ten years. All text is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from models.metrics import Figure as Measured
from training.errors import RunError
from training.runs import write_atomically

MAX_IMAGE_SIDE_PX = 640  # an example on a page; the file is on disk for whoever needs more
MAX_SVG_BYTES = 1_500_000  # beyond it (many thousand points) a picture of pixels is smaller
FIGURE_DPI = 144
NOTHING = "–"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6068; --line: #d9dce1;
  --paper: #ffffff; --band: #f4f5f7; --mark: #8a4b00; --mark-paper: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3a9b3; --line: #3a3f47;
  --paper: #17191c; --band: #202328; --mark: #ffc46b; --mark-paper: #33270f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { max-width: 46rem; overflow-wrap: anywhere; }
.notice { border-left: .3rem solid var(--mark); background: var(--mark-paper); color: var(--ink);
  padding: .6rem .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 0; }
figure.plot img { max-width: 100%; height: auto; background: #ffffff; border-radius: .3rem;
  border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .35rem; max-width: 46rem;
  overflow-wrap: anywhere; }
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
.gallery img { width: 100%; height: auto; border-radius: .3rem; }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --band: #f4f5f7;
  --mark: #8a4b00; --mark-paper: #fff; } body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; } figure, tr, .notice { break-inside: avoid; }
  figure.plot img { max-height: 10.5cm; width: auto; } .scroll { overflow: visible; }
  .gallery { grid-template-columns: repeat(4, 1fr); } }
"""


class Page:
    """A report under construction; parts appear in the order in which they were added."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []

    def text(self, text: str) -> None:
        """Add plain text; an empty line begins a new paragraph."""
        self._parts += [f"<p>{_escape(part)}</p>" for part in text.split("\n\n") if part.strip()]

    def notice(self, text: str) -> None:
        """Add a remark that nobody may overlook, such as a low level of evidence."""
        self._parts.append(f'<p class="notice" role="note">{_escape(text)}</p>')

    def table(self, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Add a table.

        Parameters
        ----------
        title
            Heading above it.
        rows
            Column -> value, in order; rows may lack columns. Numbers are rounded to four
            significant digits, a ``models.metrics.Figure`` shows its interval, None and nan show
            a dash.
        """
        columns = list(dict.fromkeys(name for row in rows for name in row))
        is_number = {
            name: all(_is_number(row[name]) for row in rows if row.get(name) is not None)
            for name in columns
        }
        classes = {name: ' class="number"' if is_number[name] else "" for name in columns}
        head = "".join(
            f'<th scope="col"{classes[name]}>{_escape(str(name))}</th>' for name in columns
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td{classes[name]}>{_cell(row.get(name))}</td>" for name in columns)
            + "</tr>\n"
            for row in rows
        )
        self._heading(title)
        if not rows:
            self._parts.append("<p>No rows.</p>")
            return
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>"
        )

    def figure(self, title: str, figure: Figure, note: str = "") -> None:
        """Add a figure; the note below it says what to look for and becomes its alternative text.

        Parameters
        ----------
        figure
            Drawn at once; later changes of it do not show.
        """
        kind, content = _draw(figure)
        alt = f"{title}. {note}" if note else f"Plot: {title}"
        self._heading(title)
        self._parts.append(
            f'<figure class="plot">{_img(kind, content, alt)}'
            + (f"<figcaption>{_escape(note)}</figcaption>" if note else "")
            + "</figure>"
        )

    def images(self, title: str, items: Iterable[tuple[NDArray[np.uint8], str]]) -> None:
        """Add a gallery of images with captions.

        Parameters
        ----------
        items
            Image (H, W, 3) uint8 RGB or (H, W) uint8 and its caption. Sides above
            ``MAX_IMAGE_SIDE_PX`` are reduced.

        Raises
        ------
        ValueError
            If an array is no such image.
        """
        self._heading(title)
        shown = [
            f"<figure>{_img('png', _encode(image), caption or title)}"
            f"<figcaption>{_escape(caption)}</figcaption></figure>"
            for image, caption in items
        ]
        self._parts.append(
            f'<div class="gallery">{"".join(shown)}</div>' if shown else "<p>No images.</p>"
        )

    def render(self) -> str:
        """Return the page as HTML."""
        title = _escape(self._title)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
            f"<h1>{title}</h1>\n" + "\n".join(self._parts) + "\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page to ``path``, whole or not at all.

        Raises
        ------
        RunError
            If the file cannot be written; an older page of that name stays.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise RunError(f"no folder can be made for {path}: {exc.strerror}") from exc
        write_atomically(path, self.render().encode())

    def _heading(self, title: str) -> None:
        self._parts.append(f"<h2>{_escape(title)}</h2>")


def _escape(text: str) -> str:
    # Surrogates (file names that are not UTF-8) cannot be written; a replacement mark can.
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return html.escape(clean).replace("\n", "<br>")


def _is_number(value: object) -> bool:
    if isinstance(value, Measured | np.number):
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, Measured):
        if math.isfinite(value.low) and math.isfinite(value.high):
            return f"{_number(value.value)} ({_number(value.low)} to {_number(value.high)})"
        return _number(value.value)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return _number(float(value))
    return _escape(str(value))


def _number(value: float) -> str:
    """Four significant digits, without an exponent where a reader can do without."""
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        magnitude = 0 if value == 0 else math.floor(math.log10(abs(value)))
        return f"{value:.{max(0, min(4, 3 - magnitude))}f}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def _draw(figure: Figure) -> tuple[str, bytes]:
    """Image type and content of a figure; the same figure gives the same bytes."""
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lentigo", "svg.fonttype": "path"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    if content.tell() <= MAX_SVG_BYTES:
        return "svg+xml", content.getvalue()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=FIGURE_DPI, metadata={"Software": None})
    return "png", content.getvalue()


def _encode(image: NDArray[np.uint8]) -> bytes:
    is_colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (is_colour or image.ndim == 2) or 0 in image.shape:
        raise ValueError(f"{image.shape} {image.dtype} is no (H, W, 3) or (H, W) uint8 image")
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((MAX_IMAGE_SIDE_PX, MAX_IMAGE_SIDE_PX), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()


def _img(kind: str, content: bytes, alt: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/{kind};base64,{data}" alt="{_escape(alt)}">'
