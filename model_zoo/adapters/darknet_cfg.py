"""Reading darknet ``.cfg`` files: what OpenCV would accept blindly is checked here first.

OpenCV's reader trusts its input: a missing key is a default, a weights file
that is too short ends in an assertion or in zeros, an absurd size in an
allocation of that size. So the whole network is walked through before OpenCV
sees it: known sections, sane numbers, channels that fit, and from them the
exact size of the weights file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from composition.errors import UserError

MAX_SIDE = 8192
_MAX_SECTIONS = 2000
_MAX_FILTERS = 1 << 16
_MAX_CELLS = 1 << 28  # values in one feature map: 1 GB of floats
_PASSES = {"dropout", "yolo"}
_READABLE = {"convolutional", "maxpool", "avgpool", "route", "shortcut", "upsample", *_PASSES}
# keys that change the network in darknet and are passed over by OpenCV, with the value that changes nothing
_NOT_IN_OPENCV = {
    "dilation": "1",
    "antialiasing": "0",
    "xnor": "0",
    "binary": "0",
    "stride_x": "",
    "stride_y": "",
}


@dataclass(frozen=True, slots=True)
class Section:
    """One ``[type]`` block.

    Attributes:
        kind: The type.
        line: Line number of its header, from 1.
        values: ``key = value`` pairs; the first of a repeated key counts.
    """

    kind: str
    line: int
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DarknetNetwork:
    """What a cfg describes.

    Attributes:
        width: Input width in pixels.
        height: Input height in pixels.
        classes: Number of classes.
        parameters: Floats in the weights file after its header.
        sections: All blocks in order.
    """

    width: int
    height: int
    classes: int
    parameters: int
    sections: tuple[Section, ...]


@dataclass(slots=True)
class _Shape:
    channels: int
    height: int
    width: int


class _Walk:
    """Follows shapes and counts parameters from section to section."""

    def __init__(self, path: Path, shape: _Shape) -> None:
        self.path, self.shape, self.parameters = path, shape, 0
        self.shapes: list[_Shape] = []
        self.classes: set[int] = set()

    def fail(self, section: Section, problem: str) -> UserError:
        """The error for a section, with file and line."""
        return UserError(
            f"{self.path}, line {section.line}, [{section.kind}]: {problem}",
            "Use the .cfg that the weights were trained with.",
        )

    def number(
        self, section: Section, key: str, default: int | None, low: int = 1, high: int = MAX_SIDE
    ) -> int:
        """An integer of a section, within limits."""
        text = section.values.get(key, default)
        try:
            value = int(text)  # type: ignore[arg-type]  # None is caught below
        except (TypeError, ValueError):
            raise self.fail(section, f"{key} is {text!r}, not a whole number") from None
        if not low <= value <= high:
            raise self.fail(section, f"{key} is {value}, not in {low}..{high}")
        return value

    def numbers(self, section: Section, key: str) -> list[float]:
        """A list of numbers of a section."""
        text = section.values.get(key, "")
        try:
            values = [float(part) for part in text.split(",") if part.strip()]
        except ValueError:
            values = []
        if not values or not all(map(math.isfinite, values)):
            raise self.fail(section, f"{key} is {text!r}, not a list of numbers")
        return values

    def layer(self, section: Section, number: float) -> _Shape:
        """The output of another layer, counted from here (negative) or from the first."""
        index = number if number >= 0 else len(self.shapes) + number
        if not 0 <= index < len(self.shapes) or index != int(index):
            raise self.fail(section, f"layer {number:g} does not exist")
        return self.shapes[int(index)]

    def step(self, section: Section) -> None:
        """Applies one section."""
        if section.kind not in _READABLE:
            raise self.fail(
                section, f"sections of this kind are not read ({', '.join(sorted(_READABLE))} are)"
            )
        for key, harmless in _NOT_IN_OPENCV.items():
            if section.values.get(key, harmless) != harmless:
                raise self.fail(section, f"OpenCV does not know {key}={section.values[key]}")
        if section.kind not in _PASSES:
            self.shape = getattr(self, f"_{section.kind}")(section)
        elif section.kind == "yolo":
            self._yolo(section)
        shape = self.shape
        if min(shape.height, shape.width, shape.channels) < 1:
            raise self.fail(section, "its output is empty: the input is too small for this network")
        if shape.channels * shape.height * shape.width > _MAX_CELLS:
            raise self.fail(section, "its output would take more than 1 GB")
        self.shapes.append(shape)

    def _strided(self, section: Section, channels: int, size: int, padding: int) -> _Shape:
        stride = self.number(section, "stride", 1 if section.kind == "convolutional" else None)
        height = (self.shape.height + padding - size) // stride + 1
        width = (self.shape.width + padding - size) // stride + 1
        return _Shape(channels, height, width)

    def _convolutional(self, section: Section) -> _Shape:
        filters = self.number(section, "filters", None, high=_MAX_FILTERS)
        size = self.number(section, "size", None)
        groups = self.number(section, "groups", 1, high=_MAX_FILTERS)
        normalised = self.number(section, "batch_normalize", 0, low=0, high=1)
        padding = size // 2 if self.number(section, "pad", 0, low=0, high=1) else None
        if padding is None:
            padding = self.number(section, "padding", 0, low=0)
        if self.shape.channels % groups or filters % groups:
            raise self.fail(
                section,
                f"{self.shape.channels} channels and {filters} filters do not split into {groups} groups",
            )
        kernel = filters * (self.shape.channels // groups) * size * size
        self.parameters += kernel + filters * (4 if normalised else 1)
        return self._strided(section, filters, size, 2 * padding)

    def _maxpool(self, section: Section) -> _Shape:
        # darknet and OpenCV have different defaults for these two
        size = self.number(section, "size", None)
        padding = self.number(section, "padding", size - 1, low=0)
        return self._strided(section, self.shape.channels, size, padding)

    def _avgpool(self, section: Section) -> _Shape:
        return _Shape(self.shape.channels, 1, 1)

    def _upsample(self, section: Section) -> _Shape:
        factor = self.number(section, "stride", 1, high=32)
        return _Shape(self.shape.channels, self.shape.height * factor, self.shape.width * factor)

    def _shortcut(self, section: Section) -> _Shape:
        sources = self.numbers(section, "from")
        other = self.layer(section, sources[0])
        if len(sources) > 1:
            raise self.fail(section, "OpenCV adds one layer only")
        if (other.height, other.width) != (self.shape.height, self.shape.width):
            raise self.fail(section, f"layer {sources[0]:g} has another size")
        return self.shape

    def _route(self, section: Section) -> _Shape:
        parts = [self.layer(section, source) for source in self.numbers(section, "layers")]
        groups = self.number(section, "groups", 1, high=_MAX_FILTERS)
        self.number(section, "group_id", 0, low=0, high=groups - 1)
        if len({(part.height, part.width) for part in parts}) != 1:
            raise self.fail(section, "it joins layers of different sizes")
        if any(part.channels % groups for part in parts):
            raise self.fail(section, f"its layers do not split into {groups} groups")
        return _Shape(sum(part.channels for part in parts) // groups, parts[0].height, parts[0].width)

    def _yolo(self, section: Section) -> None:
        classes = self.number(section, "classes", None, high=_MAX_FILTERS)
        anchors, mask = self.numbers(section, "anchors"), self.numbers(section, "mask")
        if not all(0 <= index < len(anchors) // 2 for index in mask):
            raise self.fail(
                section, f"mask {section.values['mask']} asks for more than its {len(anchors) // 2} anchors"
            )
        if self.shape.channels != len(mask) * (classes + 5):
            raise self.fail(
                section,
                f"{self.shape.channels} channels come in, {len(mask)} anchors of {classes} classes "
                f"need {len(mask) * (classes + 5)}",
            )
        self.classes.add(classes)


def parse(path: Path) -> DarknetNetwork:
    """Reads and checks a cfg file.

    Args:
        path: The file.

    Returns:
        The network, every number checked.

    Raises:
        UserError: Missing file, or anything that cannot be a YOLO network;
            names file and line.
    """
    sections = _sections(path)
    net = sections[0]
    walk = _Walk(path, _Shape(3, 1, 1))
    if net.kind not in {"net", "network"}:
        raise walk.fail(net, "a network begins with [net]")
    walk.number(net, "channels", 3, low=3, high=3)
    width, height = (walk.number(net, side, None, low=32) for side in ("width", "height"))
    walk.shape = _Shape(3, height, width)
    for section in sections[1:]:
        walk.step(section)
    if len(walk.classes) != 1:
        found = (
            "no [yolo] section"
            if not walk.classes
            else f"classes {sorted(walk.classes)} in its [yolo] sections"
        )
        raise UserError(f"{path} has {found}", "Use a YOLOv3 or YOLOv4 style detector.")
    return DarknetNetwork(width, height, walk.classes.pop(), walk.parameters, tuple(sections))


def render(network: DarknetNetwork, threshold: float) -> bytes:
    """The cfg for OpenCV, with its score threshold lowered.

    OpenCV drops scores below 0.2 unless every [yolo] section says otherwise
    (2 to 6 AP50 lost), and suppresses by itself if ``nms_threshold`` is set.

    Args:
        network: As parsed.
        threshold: Scores below it are dropped.
    """
    lines = []
    for section in network.sections:
        values = dict(section.values)
        if section.kind == "yolo":
            values.pop("nms_threshold", None)
            values["thresh"] = repr(threshold)
        lines += [f"[{section.kind}]", *(f"{key}={value}" for key, value in values.items())]
    return ("\n".join(lines) + "\n").encode()


def check_weights(network: DarknetNetwork, path: Path) -> None:
    """Checks that a weights file has exactly the bytes that a network needs.

    Raises:
        UserError: Missing, cut off, or of another network; states both sizes.
    """
    try:
        with path.open("rb") as file:
            head = file.read(12)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}", "Put the .weights beside the .cfg, or pass its path."
        ) from None
    major, minor = (int.from_bytes(head[start : start + 4], "little") for start in (0, 4))
    # three integers, then the number of images seen: 64 bits since version 0.2
    header = 12 + (8 if major * 10 + minor >= 2 else 4)
    needed = header + 4 * network.parameters
    if size != needed:
        state = "cut off" if size < needed else "too long"
        raise UserError(
            f"{path} is {state}: it has {size} bytes, the network of the .cfg needs {needed}",
            "Use the .weights that belong to this .cfg, and fetch them again.",
        )


def _sections(path: Path) -> list[Section]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "Check the path of the .cfg.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable .cfg: {error}", "Fetch the file again.") from None
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#")[0].split(";")[0].strip()
        if line.startswith("["):
            sections.append(Section(line.strip("[] \t").lower(), number))
        elif line:
            key, equals, value = (part.strip() for part in line.partition("="))
            if not equals or not sections:
                raise UserError(
                    f"{path}, line {number}: expected `key=value`, found {line[:40]!r}", "Fetch it again."
                )
            sections[-1].values.setdefault(key, value)
    if not 2 <= len(sections) <= _MAX_SECTIONS:
        raise UserError(f"{path} is not a darknet .cfg: {len(sections)} sections", "Fetch the file again.")
    return sections
