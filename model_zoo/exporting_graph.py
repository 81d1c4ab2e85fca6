"""A detector of mmdet as one traceable module, from pixels to finished detections.

mmdet predicts image by image, in Python, with shapes that depend on the
content. An ONNX graph wants whole batches and fixed shapes. `ExportedDetector`
computes the same: what mmdet drops, it gives a score of 0, and suppression is
ONNX's own operator, which knows classes and batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from composition.errors import UserError

SUPPORTED = ("RetinaHead", "ATSSHead", "RTMDetHead", "RTMDetSepBNHead", "YOLOXHead")
"""Heads that can be exported."""

# mmdet's limits on candidates above this size only bound its memory: no trained network reaches them
_NO_LIMIT = 10_000


class Suppression(torch.autograd.Function):
    """ONNX's NonMaxSuppression: within each image and class, at most ``count`` boxes each."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, count: int, iou: float, floor: float) -> Tensor:
        """What the operator computes.

        Args:
            ctx: Not used.
            boxes: (B, A, 4) float, two opposite corners.
            scores: (B, C, A) float.
            count: Largest number of boxes per image and class.
            iou: A box falls if its overlap with a better one of its class exceeds this.
            floor: Only scores above it take part.

        Returns:
            (K, 3) int64: image, class, box.
        """
        found = []
        for image, (corners, by_class) in enumerate(zip(boxes, scores, strict=True)):
            pairs = (by_class > floor).nonzero()
            label, row = pairs.unbind(1)
            kept = batched_nms(corners[row], by_class[label, row], label, iou)
            taken: Counter[int] = Counter()
            for of_class, place in pairs[kept].tolist():
                if taken[of_class] < count:
                    taken[of_class] += 1
                    found.append([image, of_class, place])
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)

    @staticmethod
    def symbolic(graph: Any, boxes: Any, scores: Any, count: int, iou: float, floor: float) -> Any:
        """The node."""

        def constant(value: float, dtype: torch.dtype) -> Any:
            return graph.op("Constant", value_t=torch.tensor([value], dtype=dtype))

        limits = (
            constant(count, torch.int64),
            constant(iou, torch.float32),
            constant(floor, torch.float32),
        )
        return graph.op("NonMaxSuppression", boxes, scores, *limits)


class ExportedDetector(nn.Module):
    """Pixels in, finished detections out.

    Args:
        model: mmdet's detector, weights loaded.
        height: Input height in pixels.
        width: Input width in pixels.
        score_floor: Detections at or below it are left out.
        max_detections: At most so many an image.

    Raises:
        UserError: A head, a suppression or an input size that cannot be exported.
    """

    def __init__(self, model: Any, height: int, width: int, score_floor: float, max_detections: int) -> None:
        super().__init__()
        self._check(model, height, width)
        self.model = model.eval()
        self._head: Any = model.bbox_head
        self._floor = score_floor
        self.priors: Tensor
        self._cfg: Any = self._head.test_cfg
        self.clips = not self._is_yolox
        """Whether boxes are cut at the picture's border before suppression."""
        with torch.no_grad():
            scores, *_ = self._levels(torch.zeros(1, 3, height, width))
        priors = self._head.prior_generator.grid_priors(
            [level.shape[-2:] for level in scores], device="cpu", **self._prior_options
        )
        self.register_buffer("priors", torch.cat([getattr(level, "tensor", level) for level in priors]))
        # whole numbers, not traced shapes
        self._count = sum(len(level) for level in priors)
        self.rows = min(max_detections, self._count * self._head.cls_out_channels)
        """Length of the outputs."""
        self.eval()  # the whole: the exporter gives parts back in the mode that this one has

    @property
    def _is_yolox(self) -> bool:
        return type(self._head).__name__ == "YOLOXHead"

    @property
    def _prior_options(self) -> dict[str, bool]:
        return {"with_stride": True} if self._is_yolox else {}

    @staticmethod
    def _check(model: Any, height: int, width: int) -> None:
        head: Any = getattr(model, "bbox_head", None)
        if type(head).__name__ not in SUPPORTED:
            raise UserError(
                f"detectors with the head {type(head).__name__} cannot be exported",
                f"Heads that can: {', '.join(SUPPORTED)}.",
            )
        nms = head.test_cfg.get("nms") or {}
        extra = set(nms) - {"type", "iou_threshold", "split_thr"}
        if nms.get("type", "nms") != "nms" or extra:
            raise UserError(
                f"test_cfg.nms is {dict(nms)}: only plain suppression can be exported",
                "Use type nms with an iou_threshold.",
            )
        if not (getattr(head, "use_sigmoid_cls", False)):
            raise UserError(
                f"{type(head).__name__} uses softmax, which cannot be exported", "Use a sigmoid loss."
            )
        divisor = model.data_preprocessor.pad_size_divisor
        if height % divisor or width % divisor:
            raise UserError(
                f"an input of {width} x {height} pixels cannot be exported",
                f"Its sides must be multiples of {divisor}.",
            )

    def forward(self, pixels: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detects.

        Args:
            pixels: (B, 3, H, W) float32, RGB, 0..255.
            image_size: (B, 2) or (1, 2) float32, height and width of the
                picture on the canvas, which lies at its top left; boxes end there.

        Returns:
            Boxes (B, N, 4) float32 x1 y1 x2 y2 in network pixels, scores (B, N)
            float32 by falling score, and labels (B, N) int64; rows that only
            fill the arrays are all 0.
        """
        class_levels, box_levels, factor_levels = self._levels(self._normalised(pixels))
        scores = self._scores(class_levels, factor_levels)
        boxes = self._boxes(torch.cat([_rows(level, 4) for level in box_levels], dim=1))
        if self.clips:
            limit = image_size.flip(1).repeat(1, 2)[:, None]
            boxes = torch.minimum(boxes.clamp(min=0), limit)
            has_area = (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
            scores = scores * has_area[..., None]
        return self._finish(boxes, scores.transpose(1, 2))

    def _normalised(self, pixels: Tensor) -> Tensor:
        """What the model's data preprocessor does to RGB pixels."""
        preprocessor = self.model.data_preprocessor
        # mmdet reads BGR: where it does not turn that into RGB, the network wants BGR
        if not preprocessor._channel_conversion:
            pixels = pixels[:, [2, 1, 0]]
        if preprocessor._enable_normalize:
            pixels = (pixels - preprocessor.mean) / preprocessor.std
        return pixels

    def _levels(self, pixels: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """Class, box and, where there are any, factor maps of every level."""
        outputs = self._head(self.model.extract_feat(pixels))
        return (*outputs, ()) if len(outputs) == 2 else outputs

    def _scores(self, class_levels: Sequence[Tensor], factor_levels: Sequence[Tensor]) -> Tensor:
        """(B, A, C), 0 for what does not get as far as suppression."""
        levels = [_rows(level, self._head.cls_out_channels).sigmoid() for level in class_levels]
        if not self._is_yolox:
            # the limit counts before the factor: mmdet multiplies what it has chosen
            levels = [self._limited(level) for level in levels]
        if factor_levels:
            factors = [_rows(level, 1).sigmoid() for level in factor_levels]
            levels = [level * factor for level, factor in zip(levels, factors, strict=True)]
        scores = torch.cat(levels, dim=1)
        if self._is_yolox:  # one class a box
            best = scores.argmax(dim=2, keepdim=True)
            scores = scores * (torch.arange(scores.shape[2]) == best)
        return scores

    def _limited(self, scores: Tensor) -> Tensor:
        """Keeps the ``nms_pre`` best pairs of box and class of a level, (B, A, C)."""
        limit = int(self._cfg.get("nms_pre", -1))
        if not 0 < limit < min(_NO_LIMIT, int(scores.shape[1]) * int(scores.shape[2])):
            return scores
        last = scores.flatten(1).topk(limit, dim=1).values[:, -1]
        return scores * (scores >= last[:, None, None])

    def _boxes(self, raw: Tensor) -> Tensor:
        """(B, A, 4) raw to corners in network pixels, by mmdet's own decoding."""
        if self._is_yolox:
            decoded: Tensor = self._head._bbox_decode(self.priors, raw)
            return decoded
        flat = self.priors[None].expand(raw.shape[0], -1, -1).reshape(-1, self.priors.shape[1])
        boxes = self._head.bbox_coder.decode(flat, raw.reshape(-1, 4))
        corners: Tensor = getattr(boxes, "tensor", boxes)  # some coders return box structures
        return corners.reshape(raw.shape)

    def _finish(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Suppresses and gathers the best: boxes (B, A, 4), scores (B, C, A)."""
        iou = float(self._cfg.nms.iou_threshold)
        image, label, row = Suppression.apply(boxes, scores, self.rows, iou, self._floor).unbind(1)
        flat = scores.flatten(1)
        kept = torch.zeros_like(flat).index_put((image, label * self._count + row), torch.ones(()))
        best, place = (flat * kept).topk(self.rows, dim=1)
        found = best > 0
        label = torch.div(place, self._count, rounding_mode="trunc")
        chosen = (place - label * self._count)[..., None].expand(-1, -1, 4)
        return boxes.gather(1, chosen) * found[..., None], best, label * found


def _rows(level: Tensor, columns: int) -> Tensor:
    """A (B, priors x columns, H, W) map as (B, H x W x priors, columns)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, columns)
