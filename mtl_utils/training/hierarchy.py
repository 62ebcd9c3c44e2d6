"""DeepMT-DR's steps for Lightning: three subnets, each with its own losses, in two stages."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext

import torch

from mtl_utils.systems.deepmt_dr import asked
from mtl_utils.systems.deepmt_dr_losses import (
    classification_aware_loss,
    distance_weighted_loss,
    evidence_lesion_loss,
    isr_terms,
    lesion_dice_loss,
    segmentation_aware_loss,
)
from mtl_utils.training.module import Batches, MultiTaskModule

Losses = dict[str, torch.Tensor]
Photographs = dict[str, torch.Tensor]
"""One task's batch."""


class HierarchyModule(MultiTaskModule):
    """Each subnet learns from the losses that the paper names for it and from no other: super-resolution
    from Eq. 10, lesions from Eqs 7 and 8, the grade from Eq. 9. What one subnet hands to the next is taken as
    given; the task-aware losses (Eqs 3, 4) are the way back. So the sum of all losses can be minimised in one
    step, and weights between subnets would change nothing: Adam divides them out.

    Photographs with masks come as crops, which have no grade: there the segmentation-aware loss is taken.
    Whole photographs have a grade, and there the classification-aware loss is.
    """

    def losses(self, batch: Batches) -> Losses:
        """By name: `image`, `smooth`, `seg_aware`, `cls_aware` (`isr_terms`), `lesions` (Eq. 7),
        `lesions_by_evidence` (Eq. 8) and `grading` (Eq. 9), as far as the stage and the batch have them.

        Both kinds of photographs have the first two. Their mean counts, so that Eq. 10 keeps its weights.
        """
        found: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
        of_task = {"grading": self._of_whole_photographs, "segmentation": self._of_crops}
        for task, photographs in batch.items():
            restored = self._restored(photographs["image"])
            for name, loss in of_task.get(task, self._of_any)(photographs, restored).items():
                found[name].append(loss)
        return {name: torch.stack(losses).mean() for name, losses in found.items()}

    def _learns(self, task: str) -> bool:
        """Does the task's subnet learn in this stage?"""
        return task in self.config.tasks and task not in self.config.hierarchy.frozen

    def _restored(self, original: torch.Tensor) -> torch.Tensor:
        with nullcontext() if self._learns("isr") else torch.no_grad():
            return self.network.enlarged(self.network.small(original))

    def _of_any(self, photographs: Photographs, restored: torch.Tensor, **aware: torch.Tensor) -> Losses:
        """Eq. 10, with what this batch has of Eqs 3 and 4."""
        if not self._learns("isr"):
            return {}
        return isr_terms(restored, photographs["image"], weights=self.config.hierarchy.weights, **aware)

    def _of_crops(self, photographs: Photographs, restored: torch.Tensor) -> Losses:
        """Eqs 10, 3 and 7."""
        network, aware = self.network, {}
        if self._learns("isr") and self.config.hierarchy.weights.sa:
            with asked(network.lesions):
                with torch.no_grad():
                    found = network.maps(photographs["image"])
                aware["seg_aware"] = segmentation_aware_loss(network.maps(restored), found)
        losses = self._of_any(photographs, restored, **aware)
        if self._learns("segmentation"):
            losses["lesions"] = lesion_dice_loss(network.maps(restored.detach()), photographs["mask"])
        return losses

    def _of_whole_photographs(self, photographs: Photographs, restored: torch.Tensor) -> Losses:
        """Eqs 10, 4, 8 and 9."""
        network, settings, aware = self.network, self.config.hierarchy, {}
        original, unlabelled = photographs["image"], ~photographs["has_mask"]
        marks = settings.stage == 2 and self._learns("segmentation") and bool(unlabelled.any())
        if self._learns("isr") and settings.weights.ca:
            # The derivative by the picture, on which the other two rest, does not change with the picture
            # (`explain.evidence`): its gradient would be zero, and dear.
            teaches = settings.visualisation in ("gmsv", "grad-cam")
            maps = network.evidence(restored, create_graph=teaches), network.evidence(original)
            step = (settings.threshold, settings.temperature)
            aware["cls_aware"] = classification_aware_loss(*maps, *step)
        losses = self._of_any(photographs, restored, **aware)
        restored = restored.detach()
        if network.lesions is None:
            maps = None
        else:
            with nullcontext() if marks else asked(network.lesions):
                maps = network.maps(restored)
            if marks:
                # Asked once more: since Eq. 4 the running averages of the lesion subnet have moved.
                looks = network.evidence(original[unlabelled])
                losses["lesions_by_evidence"] = evidence_lesion_loss(
                    maps[unlabelled], looks, settings.threshold
                )
            maps = maps.detach()
        logits = network.grading(restored, maps).float()
        losses["grading"] = distance_weighted_loss(logits, photographs["grade"], settings.plus_one)
        return losses
