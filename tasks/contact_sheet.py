"""Contact sheets: crops that show why two classes are proposed as the same, or as nested."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from composition import detections as table
from composition.discovery.answers import Answers
from composition.discovery.evidence import Direction
from composition.discovery.suggestions import Suggestion
from model_zoo.images import read_rgb
from tasks.discovery import Findings, PairDiscovery
from tasks.drawing import class_colors, draw_detections
from tasks.progress import track
from tasks.store import disk_errors

_COLUMNS = 4
_CELL = 332
_GAP = 12
_MARGIN = 24
_INK, _PALE, _PAPER = "#14181d", "#5b6570", "#ffffff"
_GOOD, _BAD = "#1f9d55", "#c2410c"
_RELATION = {"same": "is the same as", "narrower": "is a kind of", "broader": "is wider than"}


@dataclass(frozen=True, slots=True)
class _Example:
    """One crop: an image, the box of each teacher that has one, and whether they agree."""

    image_id: int
    rows: tuple[int, int]
    agrees: bool
    score: float


def write_contact_sheets(
    findings: Findings, folder: Path, *, agreeing: int = 8, other: int = 4
) -> list[Path]:
    """Draws a sheet for every proposal.

    Args:
        findings: What was discovered.
        folder: Where the JPEG files go; made when missing.
        agreeing: At most so many crops on which both teachers agree, the surest
            of each image.
        other: At most so many on which one of the two classes got another answer.

    Returns:
        The files, in the order of the proposals: ``01-same-<class>-<class>.jpg``.

    Raises:
        UserError: The folder cannot be written.
    """
    jobs = [(pair, s) for pair in findings.pairs for s in pair.suggestions if s.status != "confirmed"]
    jobs.sort(key=lambda job: (not job[1].proposal.confident, job[1].proposal.p_value))
    files = []
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, (pair, suggestion) in enumerate(track(jobs, "contact sheets", len(jobs)), start=1):
            proposal = suggestion.proposal
            name = f"{number:02d}-{proposal.relation}-{suggestion.first_class}-{suggestion.second_class}"
            file = folder / f"{re.sub(r'[^a-zA-Z0-9]+', '-', name).strip('-')}.jpg"
            sheet = _sheet(findings, pair, suggestion, agreeing, other)
            sheet.save(file, quality=90)
            files.append(file)
    return files


def _examples(pair: PairDiscovery, suggestion: Suggestion, agreeing: int, other: int) -> list[_Example]:
    """The surest agreements, one an image, then the surest disagreements of either class."""
    first, second = suggestion.proposal.first, suggestion.proposal.second
    good = _pick(pair.found.first, first, second, agrees=True, turned=False)
    bad = [
        *_pick(pair.found.first, first, second, agrees=False, turned=False),
        *_pick(pair.found.second, second, first, agrees=False, turned=True),
    ]
    bad.sort(key=lambda example: -example.score)
    return good[:agreeing] + bad[:other]


def _pick(answers: Answers, asked: int, answer: int, *, agrees: bool, turned: bool) -> list[_Example]:
    rows = np.flatnonzero((answers.asked == asked) & ((answers.answer == answer) == agrees))
    score = answers.score[rows] if not agrees else np.minimum(answers.score, answers.answer_score)[rows]
    found: dict[int, _Example] = {}
    for row in rows[np.argsort(-score, kind="stable")].tolist():
        image = int(answers.image_id[row])
        pair = (int(answers.rows[row]), int(answers.answer_rows[row]))
        shown = (pair[1], pair[0]) if turned else pair
        found.setdefault(image, _Example(image, shown, agrees, float(answers.score[row])))
    return list(found.values())


def _sheet(
    findings: Findings, pair: PairDiscovery, suggestion: Suggestion, agreeing: int, other: int
) -> Image.Image:
    examples = _examples(pair, suggestion, agreeing, other)
    split = sum(example.agrees for example in examples)
    groups = [("Both agree", _GOOD, examples[:split]), ("Another answer, or none", _BAD, examples[split:])]
    groups = [group for group in groups if group[2]]
    width = 2 * _MARGIN + _COLUMNS * _CELL + (_COLUMNS - 1) * _GAP
    rows = [-(-len(group) // _COLUMNS) for _, _, group in groups]
    height = 150 + sum(40 + count * (_CELL + _GAP) for count in rows) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    _header(ImageDraw.Draw(sheet), suggestion)
    top = 150
    for (title, color, group), count in zip(groups, rows, strict=True):
        draw = ImageDraw.Draw(sheet)
        draw.rectangle((_MARGIN, top + 4, _MARGIN + 5, top + 24), fill=color)
        draw.text((_MARGIN + 16, top + 14), title, _INK, font(17, bold=True), anchor="lm")
        top += 36
        for number, example in enumerate(group):
            x = _MARGIN + number % _COLUMNS * (_CELL + _GAP)
            y = top + number // _COLUMNS * (_CELL + _GAP)
            sheet.paste(Image.fromarray(_crop(findings, pair, example)), (x, y))
        top += count * (_CELL + _GAP) + 4
    return sheet


def _header(draw: ImageDraw.ImageDraw, suggestion: Suggestion) -> None:
    proposal = suggestion.proposal
    verdict = "confident" if proposal.confident else "unsure"
    title = f"{suggestion.second_class}  {_RELATION[proposal.relation]}  {suggestion.first_class}"
    draw.text((_MARGIN, 36), title, _INK, font(28, bold=True), anchor="lm")
    color = _GOOD if proposal.confident else _BAD
    left = _MARGIN + draw.textlength(title, font(28, bold=True)) + 24
    label = verdict if suggestion.status == "proposed" else f"{verdict}, {suggestion.status}"
    size = draw.textlength(label, font(16, bold=True))
    draw.rounded_rectangle((left, 22, left + size + 24, 52), 15, fill=color)
    draw.text((left + 12, 37), label, _PAPER, font(16, bold=True), anchor="lm")
    one, two = class_colors(2)
    lines = [
        (one, suggestion.first_teacher, suggestion.first_class, suggestion.second_class, proposal.forward),
        (two, suggestion.second_teacher, suggestion.second_class, suggestion.first_class, proposal.backward),
    ]
    for number, (color, teacher, asked, answer, direction) in enumerate(lines):
        y = 84 + number * 30
        draw.rectangle((_MARGIN, y - 9, _MARGIN + 18, y + 9), fill=color)
        draw.text((_MARGIN + 30, y), teacher, _INK, font(17, bold=True), anchor="lm")
        left = _MARGIN + 30 + draw.textlength(teacher, font(17, bold=True)) + 12
        draw.text((left, y), _summary(asked, answer, direction), _PALE, font(17), anchor="lm")


def _summary(asked: str, answer: str, direction: Direction) -> str:
    return (
        f"{direction.boxes} boxes of {asked!r} in {direction.images} images, {direction.answered} answered, "
        f"{direction.agreed} with {answer!r} (at least {100 * direction.lower:.0f} %)"
    )


def _crop(findings: Findings, pair: PairDiscovery, example: _Example) -> NDArray[np.uint8]:
    """The surroundings of the boxes as a square, with the boxes drawn in."""
    image = read_rgb(Path(findings.images[example.image_id].uri))
    teachers = (pair.first, pair.second)
    tables = [findings.detections[teacher.name] for teacher in teachers]
    shown = [(side, tables[side][[row]]) for side, row in enumerate(example.rows) if row >= 0]
    boxes = np.concatenate([found.boxes for _, found in shown])
    left, top, size = window(boxes, image.shape[1], image.shape[0])
    scale = _CELL / size
    # beyond the edge of the image the crop is grey
    canvas = Image.new("RGB", (size, size), "#e5e7eb")
    canvas.paste(Image.fromarray(image), (-left, -top))
    square = np.asarray(canvas.resize((_CELL, _CELL), Image.Resampling.LANCZOS))
    names = [
        teachers[side].manifest.vocabulary[int(found.class_id[0])] if row >= 0 else ""
        for side, row in enumerate(example.rows)
        for found in [tables[side][[max(row, 0)]]]
    ]
    offset = np.array([left, top, left, top], np.float32)
    moved = table.make(
        [0] * len(shown),
        np.clip((boxes - offset) * scale, 1, _CELL - 2),
        [float(found.score[0]) for _, found in shown],
        [side for side, _ in shown],
    )
    return draw_detections(square, moved, names, text_scale=1.7)


def window(boxes: NDArray[np.float32], width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of a square around all boxes with room to see what is beside them."""
    x1, y1 = boxes[:, :2].min(axis=0).tolist()
    x2, y2 = boxes[:, 2:].max(axis=0).tolist()
    size = round(max(x2 - x1, y2 - y1, 48) * 1.35)
    left, top = round((x1 + x2 - size) / 2), round((y1 + y2 - size) / 2)
    # inside the image where it fits
    left = min(max(left, 0), width - size) if size <= width else (width - size) // 2
    top = min(max(top, 0), height - size) if size <= height else (height - size) // 2
    return left, top, size


@cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all sheets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
