"""A preview as one self-contained HTML page, or as a folder of PNG files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tasks.contact_sheet import font
from tasks.preview import Preview, Seen
from tasks.preview_drawing import OTHER, Panel, colors_of, counted, panels_of
from tasks.preview_sheet import crops_of, sheet
from tasks.progress import track
from tasks.report import picture_uri, template
from tasks.store import disk_errors, write_atomic

PAGE = "preview.html"
_TITLE = 46


@dataclass(frozen=True, slots=True)
class Row:
    """An image and its panels."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The contact sheet of a class."""

    name: str
    color: str
    note: str
    picture: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A preview, drawn."""

    preview: Preview
    rows: Sequence[Row]
    sheets: Sequence[Sheet]
    legend: Sequence[tuple[str, str]]


def draw(preview: Preview, score: float, name: str | None = None) -> Drawn:
    """Draws a preview.

    Args:
        preview: What to show.
        score: Boxes of teachers and of fusion below it are not drawn.
        name: Draw the contact sheet of this class only.
    """
    colors = colors_of(preview.images, preview.space)
    pixels = {image.record.path: found for image in preview.images if (found := image.pixels()) is not None}
    images = [image for image in preview.images if image.record.path in pixels]
    rows = []
    for image in track(images, "drawing", len(images)):
        panels = panels_of(image, pixels[image.record.path], preview.space, colors, score)
        rows.append(Row(_title(image), panels))
    sheets = list(_sheets(preview, images, pixels, colors, name))
    legend = [
        (class_name, color)
        for class_name, color in zip(preview.space.classes, colors, strict=True)
        if color != OTHER
    ]
    if OTHER in colors:
        legend.append(("other classes", OTHER))
    return Drawn(preview, rows, sheets, legend)


def _title(image: Seen) -> str:
    return f"{image.record.path} ({image.record.width} x {image.record.height})"


def _sheets(
    preview: Preview,
    images: Sequence[Seen],
    pixels: dict[str, NDArray[np.uint8]],
    colors: Sequence[str],
    name: str | None,
) -> Iterator[Sheet]:
    for class_id, class_name in enumerate(preview.space.classes):
        crops, labels, ignored = crops_of(images, class_id)
        if not crops or (name is not None and class_name != name):
            continue
        note = f"{counted(labels, 'label')}, {counted(ignored, 'ignore region')} in these images"
        note += f"; {len(crops)} shown" if len(crops) < labels + ignored else ""
        picture = sheet(crops, pixels, preview.space, colors[class_id])
        yield Sheet(class_name, colors[class_id], note, picture)


def write_page(drawn: Drawn, folder: Path) -> list[Path]:
    """Writes ``preview.html``, which needs no other file.

    Raises:
        UserError: The folder cannot be written.
    """
    page = template("preview.html.j2", uri=picture_uri)
    text = page.render(drawn=drawn, preview=drawn.preview)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / PAGE, text.encode())
    return [folder / PAGE]


def write_pictures(drawn: Drawn, folder: Path) -> list[Path]:
    """Writes a PNG file an image, its panels side by side, and one a class.

    Raises:
        UserError: The folder cannot be written.
    """
    files = []
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(drawn.rows, 1):
            files.append(folder / f"{number:02d}-{_slug(row.title.rpartition(' (')[0])}.png")
            _side_by_side(row).save(files[-1])
        for one in drawn.sheets:
            files.append(folder / f"class-{_slug(one.name)}.png")
            Image.fromarray(one.picture).save(files[-1])
    return files


def _slug(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-") or "picture"


def _side_by_side(row: Row) -> Image.Image:
    height, width = row.panels[0].picture.shape[:2]
    gap = 10
    paper = Image.new("RGB", (len(row.panels) * (width + gap) - gap, height + _TITLE), "#ffffff")
    draw_on = ImageDraw.Draw(paper)
    for number, panel in enumerate(row.panels):
        left = number * (width + gap)
        draw_on.text((left, 4), panel.title, "#14181d", font(16, bold=True))
        draw_on.text((left, 25), panel.note, "#5b6570", font(13))
        paper.paste(Image.fromarray(panel.picture), (left, _TITLE))
    return paper
