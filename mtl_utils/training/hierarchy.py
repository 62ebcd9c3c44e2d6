"""DeepMT-DR's steps for Lightning: three subnets, each with its own losses, in two stages."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from mtl_utils.systems.deepmt_dr import asked
from mtl_utils.systems.deepmt_dr_losses import (
    classification_aware_loss,
    distance_weighted_loss,
    evidence_lesion_loss,
    image_loss,
    lesion_dice_loss,
    segmentation_aware_loss,
    total_variation_loss,
)
from mtl_utils.training.module import Batches, MultiTaskModule

Losses = dict[str, torch.Tensor]


class HierarchyModule(MultiTaskModule):
    """Each subnet learns from the losses that the paper names for it and from no other: super-resolution
    from Eq. 10, lesions from Eqs 7 and 8, the grade from Eq. 9. What one subnet hands to the next is taken as
    given; the task-aware losses (Eqs 3, 4) are the way back. So the sum of all losses can be minimised in one
    step, and weights between subnets would change nothing: Adam divides them out.

    Photographs with masks come as crops, which have no grade: there the segmentation-aware loss is taken.
    Whole photographs have a grade, and there the classification-aware loss is.
    """

    def _losses(self, batch: Batches) -> Losses:
        losses: Losses = {}
        for task, photographs in batch.items():
            original = photographs["image"]
            restored = self._restored(original)
            parts = self._isr_losses(task, restored, original)
            if task == "segmentation" and self._learns(task):
                parts["lesions"] = lesion_dice_loss(self.network.maps(restored.detach()), photographs["mask"])
            elif task == "grading":
                parts |= self._whole_photographs(restored.detach(), photographs)
            for name, loss in parts.items():
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    def _learns(self, task: str) -> bool:
        """Does the task's subnet learn in this stage?"""
        return task in self.config.tasks and task not in self.config.hierarchy.frozen

    def _restored(self, original: torch.Tensor) -> torch.Tensor:
        with nullcontext() if self._learns("isr") else torch.no_grad():
            return self.network.enlarged(self.network.small(original))

    def _isr_losses(self, task: str, restored: torch.Tensor, original: torch.Tensor) -> Losses:
        """The terms of Eq. 10 that this batch has, weighted."""
        if not self._learns("isr"):
            return {}
        network, settings, weights = self.network, self.config.hierarchy, self.config.hierarchy.weights
        losses = {
            "image": weights.img * image_loss(restored, original),
            "smooth": weights.tv * total_variation_loss(restored),
        }
        if task == "segmentation" and weights.sa:
            with asked(network.lesions):
                with torch.no_grad():
                    found = network.maps(original)
                losses["seg_aware"] = weights.sa * segmentation_aware_loss(network.maps(restored), found)
        if task == "grading" and weights.ca:
            # The derivative by the picture, on which the other two rest, does not change with the picture
            # (`explain.evidence`): its gradient would be zero, and dear.
            teaches = settings.visualisation in ("gmsv", "grad-cam")
            maps = network.evidence(restored, create_graph=teaches), network.evidence(original)
            step = (settings.threshold, settings.temperature)
            losses["cls_aware"] = weights.ca * classification_aware_loss(*maps, *step)
        return losses

    def _whole_photographs(self, restored: torch.Tensor, photographs: dict[str, torch.Tensor]) -> Losses:
        """Eqs 8 and 9."""
        network, settings, losses = self.network, self.config.hierarchy, {}
        maps = None
        if network.lesions is not None:
            unlabelled = ~photographs["has_mask"]
            learns = settings.stage == 2 and self._learns("segmentation") and bool(unlabelled.any())
            with nullcontext() if learns else asked(network.lesions):
                maps = network.maps(restored)
            if learns:
                evidence = network.evidence(photographs["image"][unlabelled])
                losses["lesions_by_evidence"] = evidence_lesion_loss(
                    maps[unlabelled], evidence, settings.threshold
                )
            maps = maps.detach()
        logits = network.grading(restored, maps).float()
        losses["grading"] = distance_weighted_loss(logits, photographs["grade"], settings.plus_one)
        return losses
