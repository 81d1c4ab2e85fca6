"""Training steps that get by with less memory when there is not enough."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop

from composition.errors import UserError
from model_zoo.memory import is_out_of_memory, release

log = logging.getLogger("detcompose")


class SparingLoop(EpochBasedTrainLoop):  # type: ignore[misc]  # mmengine ships no types
    """mmengine's loop, but a batch that does not fit is taken in parts.

    The parts' gradients are added up before the one optimiser step, so that
    steps, learning rates, order of samples and checkpoints stay as they are.
    What changes is what a batch is for batch norm and for the losses, which
    divide by the number of positives of a part; the parts' losses are averaged
    by their images. As long as everything fits, nothing changes.
    """

    parts = 1
    """Into how many parts a batch is divided."""

    def run_iter(self, idx: int, data_batch: Mapping[str, Any]) -> None:
        """One step, between the hooks."""
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self._step(data_batch)
        self.runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _step(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        size = len(batch["inputs"])
        while True:
            try:
                if self.parts == 1:
                    whole: dict[str, torch.Tensor] = self.runner.model.train_step(
                        batch, optim_wrapper=self.runner.optim_wrapper
                    )
                    return whole
                return self._step_in_parts(batch, size)
            except Exception as error:
                if isinstance(error, UserError) or not is_out_of_memory(error):
                    raise
                if get_world_size() > 1:
                    raise UserError(
                        f"training: {size} images do not fit into the memory of the device of a process",
                        "Lower student.batch_size or student.image_size, or raise student.processes.",
                    ) from error
                if self.parts >= size:
                    raise UserError(
                        "training: a single image does not fit into the memory of the device",
                        "Lower student.image_size, use a smaller student.architecture, or free the device.",
                    ) from error
            # outside of the handler: the error's traceback holds the activations of the failed step
            self.parts = min(self.parts * 2, size)
            self.runner.optim_wrapper.zero_grad()
            release()
            log.warning(
                "training: out of memory with a batch of %d images; going on in %d parts of each batch, "
                "whose gradients are added up",
                size,
                self.parts,
            )

    def _step_in_parts(self, batch: Mapping[str, Any], size: int) -> dict[str, torch.Tensor]:
        model, optimizer = self.runner.model, self.runner.optim_wrapper
        count = min(self.parts, size)
        sums: dict[str, torch.Tensor] = {}
        for number in range(count):
            rows = slice(number * size // count, (number + 1) * size // count)
            share = (rows.stop - rows.start) / size
            with optimizer.optim_context(model):
                data = model.data_preprocessor(
                    {name: list(values)[rows] for name, values in batch.items()}, True
                )
                losses = model._run_forward(data, mode="loss")
            loss, shown = model.parse_losses(losses)
            optimizer.backward(optimizer.scale_loss(loss) * share)
            for name, value in shown.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        optimizer.step()
        optimizer.zero_grad()
        return sums
