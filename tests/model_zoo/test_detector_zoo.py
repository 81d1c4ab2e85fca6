"""The architectures that students and teachers have: build, train a step, predict."""

from __future__ import annotations

import pytest
import torch

from model_zoo.mmdet_runtime import build_model, import_mmdet

SIZE = 96
STEPS = 30
ARCHITECTURES = ["retinanet", "faster_rcnn", "atss", "fcos", "rtmdet", "yolox"]
# (x1, y1, x2, y2) and class of the bright rectangles that each image shows
SCENES = [
    [((8, 8, 56, 48), 0), ((40, 52, 88, 92), 1)],
    [((20, 16, 76, 80), 2)],
]


def scene_batch():
    """Two images of noise with bright rectangles, and their labels."""
    import_mmdet()
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(7)
    inputs, samples = [], []
    for objects in SCENES:
        image = torch.randint(0, 90, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        for (x1, y1, x2, y2), label in objects:
            image[label, y1:y2, x1:x2] = 230
        sample = DetDataSample(
            metainfo={
                "img_id": len(samples),
                "img_shape": (SIZE, SIZE),
                "ori_shape": (SIZE, SIZE),
                "scale_factor": (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([box for box, _ in objects], dtype=torch.float32),
            labels=torch.tensor([label for _, label in objects]),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        inputs.append(image)
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def total_loss(model, batch):
    data = model.data_preprocessor(batch, training=True)
    return model.parse_losses(model(**data, mode="loss"))[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trains_and_predicts(name, small_detector):
    torch.manual_seed(0)
    model = build_model(small_detector(name))
    model.init_weights()
    model.train()
    batch = scene_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    learnt = set()
    for _ in range(STEPS):
        loss = total_loss(model, batch)
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        learnt |= {
            key for key, value in model.named_parameters() if value.grad is not None and value.grad.any()
        }
        optimizer.step()
        history.append(loss.item())
    # at any step: residual branches start with zero gain, and a level may be without boxes at the last one
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # levels that no box is assigned to learn no boxes
        assert key in learnt or "reg" in key or "scales" in key, key
    # dynamic assignment moves the targets: RTMDet's loss rises for a dozen steps before it falls
    assert sum(history[-5:]) / 5 < 0.9 * history[0]

    model.eval()
    data = model.data_preprocessor(scene_batch(), training=False)
    with torch.no_grad():
        results = model(**data, mode="predict")
    assert len(results) == len(SCENES)
    for result in results:
        found = result.pred_instances
        assert found.bboxes.shape == (len(found.scores), 4)
        assert torch.isfinite(found.bboxes).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert ((found.labels >= 0) & (found.labels < 3)).all()
