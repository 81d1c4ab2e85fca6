"""The losses themselves: gradients of the head's predictions under weights, regions and masks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData

from composition.errors import UserError
from model_zoo.imperfect_labels import SUPPORTED_HEADS, enable
from model_zoo.imperfect_labels.weights import shared_part
from model_zoo.mmdet_runtime import build_model

SIZE, CLASSES = 128, 3
HEADS = ("retinanet", "atss", "fcos", "rtmdet", "yolox")
Build = Callable[[str], dict[str, Any]]
Boxes = Sequence[Sequence[float]]


class Labels:
    """The labels of one image, from rows of numbers."""

    def __init__(
        self,
        boxes: Boxes = (),
        labels: Sequence[int] = (),
        weights: Sequence[float] | None = None,
        box_weights: Sequence[float] | None = None,
        ignore: Sequence[tuple[Sequence[float], int]] = (),
        unspoken: Sequence[int] = (),
    ) -> None:
        ones = [1.0] * len(labels)
        self.truth = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(labels, dtype=torch.long),
            class_weights=torch.tensor(ones if weights is None else weights),
            box_weights=torch.tensor(ones if box_weights is None else box_weights),
        )
        regions = [*ignore, *(((0.0, 0.0, SIZE, SIZE), label) for label in unspoken)]
        self.ignored = InstanceData(
            bboxes=torch.tensor([box for box, _ in regions], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([label for _, label in regions], dtype=torch.long),
            unspoken=torch.tensor([False] * len(ignore) + [True] * len(unspoken), dtype=torch.bool),
        )


def model_of(name: str, build: Build, *, weighing: bool, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = build_model(build(name))
    model.init_weights()
    if weighing:
        enable(model)
    head = model.bbox_head
    head.train()
    if name == "yolox":
        head.use_l1 = True
    return head


def predictions_of(head: Any, images: int, seed: int = 1) -> list[list[torch.Tensor]]:
    """Random outputs of a head as leaves; every image gets the same."""
    torch.manual_seed(seed)
    strides = [stride[0] for stride in head.prior_generator.strides]
    with torch.no_grad():
        head_out = head([torch.randn(1, head.in_channels, SIZE // s, SIZE // s) for s in strides])
    return [
        # beyond the initial bias, so that no gradient is small
        [
            (level + torch.randn(level.shape).abs() * 0.5).repeat(images, 1, 1, 1).requires_grad_()
            for level in levels
        ]
        for levels in head_out
    ]


def losses_of_predictions(
    head: Any, predictions: list[list[torch.Tensor]], images: Sequence[Labels]
) -> dict[str, torch.Tensor]:
    meta = {"img_shape": (SIZE, SIZE), "pad_shape": (SIZE, SIZE)}
    losses = head.loss_by_feat(
        *predictions,
        [copy.deepcopy(image.truth) for image in images],
        [meta] * len(images),
        [copy.deepcopy(image.ignored) for image in images],
    )
    return {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}


def losses_of(
    head: Any, images: Sequence[Labels]
) -> tuple[dict[str, torch.Tensor], list[list[torch.Tensor]]]:
    """The head's losses and their gradients in its predictions."""
    predictions = predictions_of(head, len(images))
    losses = losses_of_predictions(head, predictions, images)
    leaves = list(itertools.chain(*predictions))
    grads = iter(torch.autograd.grad(sum(losses.values()), leaves, allow_unused=True))
    filled = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, grads, strict=True)]
    each = iter(filled)
    return losses, [[next(each) for _ in levels] for levels in predictions]


def rows(head: Any, levels: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """(images, priors, columns) of one of the head's outputs."""
    images = len(levels[0])
    return torch.cat([level.permute(0, 2, 3, 1).reshape(images, -1, columns) for level in levels], dim=1)


def places(head: Any) -> torch.Tensor:
    """(priors, 2) centres of the anchors, or points as the assigner sees them."""
    sizes = [(SIZE // stride[0],) * 2 for stride in head.prior_generator.strides]
    name = type(head).__name__
    if "Retina" in name or "ATSS" in name:
        anchors = torch.cat(head.prior_generator.grid_priors(sizes, device="cpu"))
        return (anchors[:, :2] + anchors[:, 2:]) / 2
    points = torch.cat(head.prior_generator.grid_priors(sizes, device="cpu", with_stride=True))
    return points[:, :2] + (0.5 if "YOLOX" in name else 0.0) * points[:, 2:]


TWO = Labels([(10, 12, 60, 64), (70, 60, 120, 110)], [0, 2])
ONE = Labels([(30, 20, 90, 84)], [1])
NONE = Labels()


# ---- equality with the stock losses ----------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("batch", [(TWO,), (TWO, ONE), (ONE, NONE), (NONE, NONE), (NONE, TWO, ONE)])
def test_certain_labels_give_the_stock_loss_bit_by_bit(
    name: str, batch: Sequence[Labels], small_detector: Build
) -> None:
    stock, ours = (
        losses_of(model_of(name, small_detector, weighing=weighing), batch) for weighing in (False, True)
    )
    assert stock[0].keys() == ours[0].keys()
    for key, value in stock[0].items():
        assert value.equal(ours[0][key]), key
    for one, other in zip(itertools.chain(*stock[1]), itertools.chain(*ours[1]), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("name", HEADS)
def test_state_predictions_and_copies_stay_as_they_are(name: str, small_detector: Build) -> None:
    torch.manual_seed(0)
    stock = build_model(small_detector(name))
    torch.manual_seed(0)
    ours = build_model(small_detector(name))
    enable(ours)
    assert stock.state_dict().keys() == ours.state_dict().keys()
    ours.load_state_dict(stock.state_dict())
    head = model_of(name, small_detector, weighing=True)
    twin = copy.deepcopy(head)
    first, second = losses_of(head, [TWO]), losses_of(twin, [TWO])
    assert all(value.equal(second[0][key]) for key, value in first[0].items())
    assert twin.loss_cls is not head.loss_cls
    assert isinstance(head, type(stock.bbox_head))


# ---- weights ---------------------------------------------------------------------------------------


def weighted(weight: float) -> Labels:
    return Labels([(10, 12, 60, 64), (70, 60, 120, 110)], [0, 2], [weight, 1.0], [weight, 1.0])


@pytest.mark.parametrize("name", HEADS)
def test_four_copies_of_weight_a_quarter_equal_one_whole_and_three_of_weight_zero(
    name: str, small_detector: Build
) -> None:
    """Also: the sum of weights divides. All images and predictions are the same, so gradients add up."""
    head = model_of(name, small_detector, weighing=True)
    quarters, one = (
        losses_of(head, [weighted(w) for w in weights]) for weights in ((0.25,) * 4, (1.0, 0.0, 0.0, 0.0))
    )
    for key, value in quarters[0].items():
        torch.testing.assert_close(value, one[0][key], msg=key)
    for a, b in zip(itertools.chain(*quarters[1]), itertools.chain(*one[1]), strict=True):
        torch.testing.assert_close(a.sum(0), b.sum(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", HEADS)
def test_a_box_of_weight_w_pulls_w_times_as_much_on_its_priors(name: str, small_detector: Build) -> None:
    """Up to the divisor, which is the same for all rows: it cancels in the ratio to the other box."""
    head = model_of(name, small_detector, weighing=True)
    _, whole = losses_of(head, [weighted(1.0)])
    _, less = losses_of(head, [weighted(0.3)])
    at = places(head)
    for part, columns in ((0, CLASSES), (1, 4)):
        one, other = (rows(head, grads[part], columns)[0] for grads in (whole, less))
        if part == 1:
            mine, others = ((at < 65).all(1), (at > 65).all(1))
        else:
            mine, others = assigned_rows(head, whole)
        changed = mine & (one != 0).any(1)
        kept = others & (one != 0).any(1)
        assert changed.any()
        assert kept.any()
        factor = (other[kept] / one[kept])[one[kept] != 0]
        torch.testing.assert_close(factor, factor[:1].expand_as(factor), rtol=1e-4, atol=0)
        torch.testing.assert_close(other[changed], one[changed] * 0.3 * factor[0], rtol=1e-4, atol=1e-9)


def assigned_rows(head: Any, grads: list[list[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Priors of the first and of the second box: where there is a box gradient."""
    boxed = (rows(head, grads[1], 4)[0] != 0).any(1)
    at = places(head)
    return boxed & (at < 65).all(1), boxed & (at > 65).all(1)


@pytest.mark.parametrize("name", HEADS)
def test_class_and_box_weights_are_separate(name: str, small_detector: Build) -> None:
    head = model_of(name, small_detector, weighing=True)
    boxes, labels = [(10, 12, 60, 64)], [0]
    _, both = losses_of(head, [Labels(boxes, labels)])
    _, no_box = losses_of(head, [Labels(boxes, labels, [1.0], [0.0])])
    _, no_class = losses_of(head, [Labels(boxes, labels, [0.0], [1.0])])
    boxed = (rows(head, both[1], 4)[0] != 0).any(1)
    assert boxed.any()
    assert not any(level.any() for level in no_box[1])
    torch.testing.assert_close(rows(head, no_box[0], CLASSES), rows(head, both[0], CLASSES))
    torch.testing.assert_close(rows(head, no_class[1], 4)[0, boxed], rows(head, both[1], 4)[0, boxed])
    assert not rows(head, no_class[0], CLASSES)[0, boxed].any()
    if name in ("atss", "fcos"):
        assert any(level.any() for level in both[2])
        assert not any(level.any() for level in no_box[2])
    if name == "yolox":
        assert not rows(head, no_class[2], 1)[0, boxed].any()
        torch.testing.assert_close(rows(head, no_box[2], 1), rows(head, both[2], 1))


# ---- ignore regions --------------------------------------------------------------------------------

REGION = (64.0, 64.0, 128.0, 128.0)


def in_region(head: Any, region: Sequence[float] = REGION) -> torch.Tensor:
    """Priors that certainly lie in the region: their place, and for anchors most of their area."""
    at = places(head)
    inside = (at >= torch.tensor(region[:2])).all(1) & (at < torch.tensor(region[2:])).all(1)
    if "Retina" in type(head).__name__ or "ATSS" in type(head).__name__:
        sizes = [(SIZE // stride[0],) * 2 for stride in head.prior_generator.strides]
        anchors = torch.cat(head.prior_generator.grid_priors(sizes, device="cpu"))
        inside &= shared_part(torch.tensor([region]), anchors)[:, 0] > 0.5
    return inside


@pytest.mark.parametrize("name", HEADS)
def test_an_ignored_class_has_no_gradient_in_its_region_and_others_have_theirs(
    name: str, small_detector: Build
) -> None:
    head = model_of(name, small_detector, weighing=True)
    box = [(10, 12, 60, 60)]
    _, plain = losses_of(head, [Labels(box, [0])])
    _, ignored = losses_of(head, [Labels(box, [0], ignore=[(REGION, 1)])])
    inside = in_region(head)
    before, after = (rows(head, grads[0], CLASSES)[0] for grads in (plain, ignored))
    assert inside.any()
    assert not after[inside, 1].any()
    outside_class = after[:, [0, 2]]
    if name == "yolox":
        # class losses are at positives alone; the objectness of the region is left in peace
        objects = rows(head, ignored[2], 1)[0, :, 0]
        assert rows(head, plain[2], 1)[0, inside].all()
        assert not objects[inside].any()
        assert objects[~inside].count_nonzero() > 0.5 * (~inside).sum()
        assert (after[inside][:, [0, 2]] > 0).all()  # and the others learn background there by themselves
        torch.testing.assert_close(
            after[~inside & (before != 0).any(1)], before[~inside & (before != 0).any(1)]
        )
    else:
        assert before[inside].all()
        assert outside_class.equal(before[:, [0, 2]])
        assert after[:, 1].count_nonzero() > 0
    assert all(a.equal(b) for a, b in zip(plain[1], ignored[1], strict=True))  # boxes


@pytest.mark.parametrize("name", HEADS)
def test_a_box_in_a_region_of_its_own_class_is_believed(name: str, small_detector: Build) -> None:
    head = model_of(name, small_detector, weighing=True)
    box, region = [(40, 40, 90, 90)], (0.0, 0.0, 128.0, 128.0)
    _, plain = losses_of(head, [Labels(box, [1])])
    _, grads = losses_of(head, [Labels(box, [1], ignore=[(region, 1)])])
    boxed = (rows(head, plain[1], 4)[0] != 0).any(1)
    before, after = (rows(head, one[0], CLASSES)[0] for one in (plain, grads))
    assert boxed.any()
    assert after[boxed].equal(before[boxed])
    assert not after[~boxed & in_region(head, region), 1].any()
    assert all(a.equal(b) for a, b in zip(plain[1], grads[1], strict=True))  # boxes
    _, other = losses_of(head, [Labels(box, [2], ignore=[(region, 1)])])
    assert not rows(head, other[0], CLASSES)[0, in_region(head, region), 1].any()
    assert rows(head, other[0], CLASSES)[0, boxed, 2].any()


@pytest.mark.parametrize("name", HEADS)
def test_a_small_region_covers_every_prior_that_the_head_would_give_to_an_object_there(
    name: str, small_detector: Build
) -> None:
    """Smaller than every anchor, with a point or an anchor's centre of each head in it."""
    head = model_of(name, small_detector, weighing=True)
    small = (47.0, 47.0, 53.0, 53.0)
    _, trained = losses_of(head, [Labels([small], [1])])
    _, ignored = losses_of(head, [Labels(ignore=[(small, 1)])])
    positives = (rows(head, trained[1], 4)[0] != 0).any(1)
    assert positives.any()
    assert not rows(head, ignored[0], CLASSES)[0, positives, 1].any()
    if name == "yolox":
        assert not rows(head, ignored[2], 1)[0, positives].any()


# ---- class masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_an_unspoken_class_has_no_negative_loss_on_its_image_only(name: str, small_detector: Build) -> None:
    head = model_of(name, small_detector, weighing=True)
    _, plain = losses_of(head, [TWO, ONE])
    _, masked = losses_of(head, [Labels(TWO.truth.bboxes.tolist(), [0, 2], unspoken=[1]), ONE])
    before, after = (rows(head, grads[0], CLASSES) for grads in (plain, masked))
    assert not after[0, :, 1].any()
    assert after[1].equal(before[1])
    if name == "yolox":
        boxed = (rows(head, masked[1], 4)[0] != 0).any(1)
        objects = rows(head, masked[2], 1)
        assert not objects[0, ~boxed].any()
        assert (objects[0, boxed] < 0).all()
        assert objects[1].equal(rows(head, plain[2], 1)[1])
        assert (after[0, ~boxed][:, [0, 2]] > 0).all()
    else:
        assert after[0][:, [0, 2]].equal(before[0][:, [0, 2]])
    assert all(a.equal(b) for a, b in zip(plain[1], masked[1], strict=True))


@pytest.mark.parametrize("name", HEADS)
def test_boxes_of_an_unspoken_class_are_still_learned(name: str, small_detector: Build) -> None:
    head = model_of(name, small_detector, weighing=True)
    _, grads = losses_of(head, [Labels(TWO.truth.bboxes.tolist(), [0, 2], unspoken=[0])])
    classes = rows(head, grads[0], CLASSES)[0]
    assert (classes[:, 0] < 0).any()
    assert not (classes[:, 0] > 0).any() or name in ("rtmdet", "yolox")  # their targets are the IoU, not 1


@pytest.mark.parametrize("name", HEADS)
def test_all_weights_zero_is_finite_and_teaches_background_alone(name: str, small_detector: Build) -> None:
    head = model_of(name, small_detector, weighing=True)
    losses, grads = losses_of(head, [Labels([(10, 12, 60, 64)], [0], [0.0], [0.0])])
    assert all(value.isfinite() for value in losses.values())
    assert not any(level.any() for level in grads[1])
    assert (rows(head, grads[0], CLASSES) >= 0).all()


# ---- errors and precision ---------------------------------------------------------------------------


def test_an_unsupported_head_names_the_supported_ones(small_detector: Build) -> None:
    with pytest.raises(UserError, match="FasterRCNN cannot be trained with weights") as error:
        enable(build_model(small_detector("faster_rcnn")))
    assert all(head in error.value.way_out for head in SUPPORTED_HEADS)


def test_an_unsupported_loss_names_the_supported_ones(small_detector: Build) -> None:
    config = small_detector("retinanet")
    config["bbox_head"]["loss_cls"] = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    with pytest.raises(UserError, match=r"RetinaHead\.loss_cls: CrossEntropyLoss") as error:
        enable(build_model(config))
    assert "FocalLoss" in error.value.way_out


@pytest.mark.parametrize("name", HEADS)
def test_mixed_precision_weighs_as_single_precision_does(name: str, small_detector: Build) -> None:
    """bfloat16 logits keep 8 bits; the weights and the sums stay in float32."""
    head = model_of(name, small_detector, weighing=True)
    labels = Labels(TWO.truth.bboxes.tolist(), [0, 2], [0.3, 0.6], [0.1, 1.0], [(REGION, 1)], unspoken=[1])
    with torch.no_grad():
        exact = losses_of_predictions(head, predictions_of(head, 2), [labels, ONE])
        with torch.autocast("cpu", torch.bfloat16):
            scores, boxes, *rest = predictions_of(head, 2)
            halves = [[level.bfloat16() for level in levels] for levels in (scores, *rest)]
            # the heads whose boxes come out of exp or of decoding keep them in float32
            boxes = [level.bfloat16() if name == "yolox" else level for level in boxes]
            mixed = losses_of_predictions(head, [halves[0], boxes, *halves[1:]], [labels, ONE])
    for key, value in exact.items():
        assert mixed[key].dtype == torch.float32
        torch.testing.assert_close(mixed[key], value, rtol=0.03, atol=1e-3, msg=key)
