"""What does a grade rest on? Heat maps, and how well they agree with what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

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


def positive_score(logits: torch.Tensor) -> torch.Tensor:
    """y_DR, DeepMT-DR's score for any retinopathy: the sum of the scores of grades 1 to 4, (B, 5) -> (B,)."""
    return logits[:, 1:].sum(dim=1)


def gmsv(
    forward: Callable[[], torch.Tensor],
    layers: Sequence[nn.Module],
    score: Callable[[torch.Tensor], torch.Tensor] = positive_score,
    size: tuple[int, int] | None = None,
    create_graph: bool = False,
) -> torch.Tensor:
    """Gradient-weighted multi-scale visualisation, DeepMT-DR's Algorithm 1 and Eqs 1 and 2: what a score
    rests on, at the scales of several layers.

    The network is not changed: hooks listen to the layers, and one backward pass serves all of them. A
    layer's map is the sum of its channels, each weighted by the mean derivative of the score (Eq. 1). From
    the last layer to the first, the map found so far is enlarged to the next layer's size (by 2 in the paper,
    whose layers differ so), and that layer's own is added with the sum of its weights.

    Args:
        forward: runs the network on a batch and gives its logits, as `lambda: network(image)`.
        layers: modules whose outputs are feature maps (B, C, H, W), from the first to the last.
        score: logits -> the score of each photograph, (B,).
        size: height and width of the result; None: the first layer's.
        create_graph: the map shall be differentiated itself, as in the classification-aware loss (Eq. 4).

    Returns:
        V, (B, 1, H, W), scaled to [0, 1] for each photograph; the paper does not say so, but compares it with
        0.5. All 0 where the map is flat.

    >>> first, second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 5, 3, stride=2)
    >>> image = torch.rand(2, 3, 33, 33)
    >>> gmsv(lambda: second(first(image).relu()).mean((2, 3)), [first, second]).shape
    torch.Size([2, 1, 16, 16])
    """
    seen: dict[nn.Module, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _, output: seen.update({layer: output})) for layer in layers
    ]
    try:
        with torch.enable_grad():
            total = score(forward()).sum()
    finally:
        for hook in hooks:
            hook.remove()
    maps = [seen[layer] for layer in layers]
    # Photographs do not see each other, so the derivative of the sum is each one's own.
    gradients = torch.autograd.grad(total, maps, create_graph=create_graph)
    evidence = None
    for features, gradient in zip(maps[::-1], gradients[::-1], strict=True):
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        own = (weights * features).sum(dim=1, keepdim=True)
        if evidence is None:
            evidence = own
        else:
            larger = F.interpolate(evidence, own.shape[-2:], mode="bilinear", align_corners=False)
            evidence = larger + weights.sum(dim=1, keepdim=True) * own
    if size is not None:
        evidence = F.interpolate(evidence, size, mode="bilinear", align_corners=False)
    lowest, highest = evidence.amin(dim=(2, 3), keepdim=True), evidence.amax(dim=(2, 3), keepdim=True)
    scaled = (evidence - lowest) / (highest - lowest).clamp(min=torch.finfo(evidence.dtype).tiny)
    return scaled if create_graph else scaled.detach()


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
