"""What does a grade rest on? Heat maps, and how well they agree with what was drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.metrics import roc_auc_score
from torch import nn

from mtl_utils.lesions import GRADES
from mtl_utils.systems.base import FundusNetwork


class _Grader(nn.Module):
    """A network as a plain classifier, whose deepest feature map passes through a module of its own: there
    Grad-CAM can listen, whatever the encoder.
    """

    def __init__(self, network: FundusNetwork):
        super().__init__()
        self.network, self.deepest = network, nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        *earlier, last = self.network.features(image)
        return self.network.heads([*earlier, self.deepest(last)], ("grading",))["grading"].float()


def grad_cam(network: FundusNetwork, image: torch.Tensor, grades: Sequence[int] = GRADES) -> np.ndarray:
    """Grad-CAM of each grade (Selvaraju et al., 2020; PLDMLT's Eq. 1), by pytorch-grad-cam.

    L_c = ReLU(sum_k alpha_k^c F^k), where F^k is channel k of the encoder's last feature map, and alpha_k^c
    the mean derivative of grade c's score by it.

    Args:
        network: with the task 'grading'; left in evaluation mode, without gradients.
        image: RGB in [0, 1], float (B, 3, H, W).
        grades: whose heat maps.

    Returns:
        float32 (B, grades, H, W): each map scaled to [0, 1]; all 0 where nothing speaks for the grade.

    >>> from mtl_utils.systems.shared_encoder import SharedEncoder
    >>> network = SharedEncoder("resnet18", encoder_weights=None, tasks=("grading",)).eval()
    >>> grad_cam(network, torch.rand(2, 3, 64, 64)).shape
    (2, 5, 64, 64)
    """
    grader = _Grader(network).eval()
    with GradCAM(grader, [grader.deepest]) as cam:
        maps = [cam(image, [ClassifierOutputTarget(grade)] * len(image)) for grade in grades]
    grader.zero_grad()  # pytorch-grad-cam leaves those of the last grade
    return np.stack(maps, axis=1).astype(np.float32)


def agreement(heat: np.ndarray, mask: np.ndarray, inside: np.ndarray) -> float:
    """How well does a heat map point at what was drawn? The area under the ROC curve of heat as a sign of the
    mask: the probability that a marked pixel is hotter than another one.

    Args:
        heat: (H, W).
        mask: bool (H, W).
        inside: bool (H, W), the pixels that count: the field of view.

    Returns:
        0 to 1; 0.5 is chance, also of a map without any heat. NaN where the mask marks nothing inside, or
        everything.

    >>> heat = np.array([[0.9, 0.8, 0.1, 0.0]])
    >>> mask = np.array([[True, False, True, False]])
    >>> agreement(heat, mask, np.ones_like(mask))  # three of four pairs are in the right order
    0.75
    """
    marked = mask[inside]
    if marked.all() or not marked.any():
        return float("nan")
    return float(roc_auc_score(marked, heat[inside]))
