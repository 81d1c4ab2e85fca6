"""The sections of a recipe that choose the method: calibrate, filter, fuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from composition import fusion
from composition.aliases import require_known
from composition.errors import UserError
from composition.fusion import Expert, Fuser, Nms, SoftNms, Wbf
from composition.fusion.soft_nms import Decay
from composition.fusion.wbf import ConfType

FuserName = Literal["expert", "nms", "wbf", "soft_nms"]
Calibration = Literal["labels", "label-free", "none"]
Rule = Literal["auto", "fixed", "f_beta", "expected_f", "mixture", "expected_count"]
# the rules that look at labels if there are any
LABEL_RULES = ("f_beta", "expected_f")

# what calibration learns is no setting
_LEARNED = {"expertise", "coverage", "bias", "best", "sharpness"}
_KINDS: Mapping[str, type[Any]] = {"expert": Expert, "nms": Nms, "wbf": Wbf, "soft_nms": SoftNms}


def fuser_settings(method: str) -> list[str]:
    """The settings that a fuser takes from a recipe."""
    return [field.name for field in fields(_KINDS[method]) if field.name not in _LEARNED]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FuseSettings(_Section):
    """How the teachers' boxes become one set. What is left out is the method's own default."""

    method: FuserName = Field(
        "expert",
        description="expert: calibrated, knows who can see what; nms: per-class suppression over all "
        "teachers, highest score wins; wbf: weighted boxes fusion; soft_nms: overlap lowers the score.",
    )
    iou: float | None = Field(
        None, ge=0, le=1, description="Boxes of one class that overlap more are one object."
    )
    weights: list[float] | None = Field(None, description="wbf: one positive factor per teacher, in order.")
    skip_below: float | None = Field(
        None, ge=0, le=1, description="wbf: detections with a lower score are left out."
    )
    conf_type: ConfType | None = Field(None, description="wbf: how member scores become the fused score.")
    decay: Decay | None = Field(None, description="soft_nms: how overlap lowers a score.")
    sigma: float | None = Field(None, gt=0, description="soft_nms: width of the gaussian decay.")
    floor: float | None = Field(
        None, ge=0, le=1, description="soft_nms: boxes whose score has fallen lower are dropped."
    )

    @model_validator(mode="after")
    def _belongs_to_the_method(self) -> FuseSettings:
        known = fuser_settings(self.method)
        for name in self.given():
            if name not in known:
                raise ValueError(
                    f"{name!r} is not a setting of {self.method}; its settings: {', '.join(known)}"
                )
        try:
            self.fuser()
        except UserError as error:
            raise ValueError(error.problem) from None
        return self

    def given(self) -> dict[str, Any]:
        """The settings that were chosen, without the method."""
        return self.model_dump(mode="json", exclude={"method"}, exclude_none=True)

    def fuser(self) -> Fuser:
        """The fuser, not calibrated."""
        return fusion.fuser(self.method, self.given())

    def check(self, teachers: int) -> None:
        """Raises UserError unless there is a weight for each teacher, or none."""
        if self.weights is not None and len(self.weights) != teachers:
            raise UserError(
                f"fuse.weights: {len(self.weights)} weights for {teachers} teachers",
                "Give one weight per teacher, in their order.",
            )


class CalibrateSettings(_Section):
    """What the teachers' scores are worth, and from what that is learned."""

    method: Calibration | None = Field(
        None,
        description="labels: from a few labelled images; label-free: from where the teachers agree on the "
        "pool; none: scores as they are. Default: labels if there are annotations, else label-free; "
        "none for fusers other than expert.",
    )
    annotations: Path | None = Field(
        None,
        description="COCO JSON file with labels, or a YOLO or VOC set; also what the f_beta rule of filter "
        "learns from.",
    )
    root: Path | None = Field(None, description="Folder of its images.")
    images: int = Field(
        100, ge=1, description="At most so many of its images are used, chosen by a hash of their names."
    )

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> CalibrateSettings:
        if self.method == "labels" and self.annotations is None:
            raise ValueError("method 'labels' needs 'annotations', a COCO file with labels")
        if self.annotations is None and self.root is not None:
            raise ValueError("'root' without 'annotations' means nothing")
        return self

    def chosen(self, fusing: FuseSettings) -> Calibration:
        """The method, with its default filled in.

        Raises:
            UserError: A fuser that cannot be calibrated.
        """
        if fusing.method != "expert":
            if self.method in (None, "none"):
                return "none"
            raise UserError(
                f"calibrate.method: fuser {fusing.method} cannot be calibrated",
                "Set calibrate.method to none, or fuse.method to expert.",
            )
        return self.method or ("labels" if self.annotations else "label-free")


class ClassThresholds(_Section):
    """Thresholds of one class."""

    keep: float = Field(ge=0, le=1, description="Boxes from this fused score on are labels.")
    ignore: float | None = Field(
        None, ge=0, le=1, description="Boxes from this one on are ignore regions; default: half of keep."
    )


class FilterSettings(_Section):
    """Which fused boxes become labels, which ignore regions, and which count as background."""

    rule: Rule = Field(
        "auto",
        description="Where thresholds of fused scores come from. f_beta: best F on the labels of calibrate; "
        "expected_f: best F that the scores let expect on the pool; mixture: two populations of scores; "
        "expected_count: as many boxes as are expected to be right; fixed: keep and ignore; auto: fixed if "
        "keep is given, else expected_f with calibrated scores or labels, else expected_count.",
    )
    keep: float | None = Field(
        None,
        ge=0,
        le=1,
        description="fixed: boxes from this fused score on are labels. With another rule: the same for "
        "classes that the rule cannot decide, 0.5 if left out.",
    )
    ignore: float | None = Field(
        None,
        ge=0,
        le=1,
        description="As keep, for ignore regions; default: half of keep.",
    )
    per_class: dict[str, float | ClassThresholds] = Field(
        default_factory=dict,
        description="Thresholds of single classes, whatever the rule: keep, or {keep: .., ignore: ..}.",
    )
    floor: float = Field(
        0.0, ge=0, le=1, description="Detections with a lower score of their teacher are left out of fusion."
    )
    max_spread: float = Field(
        0.5,
        ge=0,
        le=1,
        description="With generate.augment: boxes that move more (1 - IoU) are learned from for their class "
        "only.",
    )
    minimum_size: float = Field(
        0.0, ge=0, description="Pixels that both sides of a label must have; smaller ones are ignore regions."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> FilterSettings:
        if self.rule == "fixed" and self.keep is None:
            raise ValueError("rule 'fixed' needs 'keep'")
        if self.ignore is not None and self.keep is None:
            raise ValueError("'ignore' needs 'keep'")
        if self.keep is not None and self.ignore is not None and self.ignore > self.keep:
            raise ValueError(f"'ignore' is {self.ignore:g}, above 'keep', which is {self.keep:g}")
        for name, value in self.per_class.items():
            if isinstance(value, float):
                if not 0 <= value <= 1:
                    raise ValueError(f"per_class: the threshold of {name!r} is {value:g}, not in [0, 1]")
            elif value.ignore is not None and value.ignore > value.keep:
                raise ValueError(f"per_class: 'ignore' of {name!r} is above its 'keep'")
        return self

    @property
    def fallback_keep(self) -> float:
        """``keep``, or its default."""
        return 0.5 if self.keep is None else self.keep

    def check(self, classes: Sequence[str]) -> None:
        """Raises UserError where ``per_class`` names a class that is not in the label space."""
        for name in self.per_class:
            require_known(name, classes, "filter.per_class")

    def chosen(self, labelled: bool, calibration: Calibration) -> Rule:
        """The rule, with ``auto`` resolved.

        Args:
            labelled: Whether there are labels to learn from.
            calibration: What the scores are calibrated on.

        Raises:
            UserError: f_beta without labels.
        """
        if self.rule == "f_beta" and not labelled:
            raise UserError(
                "filter.rule: f_beta needs labels", "Give calibrate.annotations, or use another rule."
            )
        if self.rule != "auto":
            return self.rule
        if self.keep is not None:
            return "fixed"
        return "expected_f" if labelled or calibration != "none" else "expected_count"
