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

from mtl_utils.errors import MTLError
from mtl_utils.lesions import DISEASE_LESIONS, GRADES
from mtl_utils.systems.base import FundusNetwork

VISUALISATIONS = ("gmsv", "guided-backprop", "grad-cam", "smoothgrad")
"""What `evidence` can draw: DeepMT-DR's own, and the three that its Table 5 puts in its place."""


class _Grader(nn.Module):
    """What comes after the encoder, as a plain classifier of these pictures: their deepest feature map passes
    through a module of its own, where Grad-CAM can listen, whatever the encoder. It asks once for each grade,
    and the encoder, which is most of the work, has the same answer each time.
    """

    def __init__(self, network: FundusNetwork, image: torch.Tensor):
        super().__init__()
        self.network, self.deepest = network, nn.Identity()
        self.eval()
        with torch.no_grad():
            *self.earlier, self.last = network.features(image)
        self.last.requires_grad_()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits; the library takes the size of the maps from `image`."""
        deepest = self.deepest(self.last.clone())  # a new one each time: listeners stay with a tensor
        return self.network.heads([*self.earlier, deepest], ("grading",))["grading"].float()


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
    grader = _Grader(network, image)
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
    maps, gradients = _listen(forward, layers, score, create_graph)
    found = None
    for features, gradient in zip(maps[::-1], gradients[::-1], strict=True):
        own, importance = _weighted(features, gradient)
        if found is None:
            found = own
        else:
            larger = F.interpolate(found, own.shape[-2:], mode="bilinear", align_corners=False)
            found = larger + importance * own
    return _scaled(found, size, create_graph)


def _listen(
    forward: Callable[[], torch.Tensor],
    layers: Sequence[nn.Module],
    score: Callable[[torch.Tensor], torch.Tensor],
    create_graph: bool,
) -> tuple[list[torch.Tensor], Sequence[torch.Tensor]]:
    """The feature maps of the layers, and the derivative of each photograph's score by them. The weights'
    own derivatives are not computed.
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
    return maps, torch.autograd.grad(total, maps, create_graph=create_graph)


def _weighted(features: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The channels of one layer weighted by the mean derivative and summed, (B, 1, H, W), and the sum of the
    weights, (B, 1, 1, 1).
    """
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1, keepdim=True), weights.sum(dim=1, keepdim=True)


def _scaled(found: torch.Tensor, size: tuple[int, int] | None, create_graph: bool) -> torch.Tensor:
    """A map (B, 1, H, W), enlarged to `size` and scaled to [0, 1] for each photograph."""
    if size is not None:
        found = F.interpolate(found, size, mode="bilinear", align_corners=False)
    lowest, highest = found.amin(dim=(2, 3), keepdim=True), found.amax(dim=(2, 3), keepdim=True)
    scaled = (found - lowest) / (highest - lowest).clamp(min=torch.finfo(found.dtype).tiny)
    return scaled if create_graph else scaled.detach()


def evidence(
    kind: str,
    forward: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    layers: Sequence[nn.Module],
    size: tuple[int, int] | None = None,
    create_graph: bool = False,
    copies: int = 4,
    noise: float = 0.1,
) -> torch.Tensor:
    """What `positive_score` rests on, by one of `VISUALISATIONS`, so that a training loop can put one in the
    other's place (DeepMT-DR's Table 5).

    - 'gmsv': see `gmsv`.
    - 'grad-cam' (Selvaraju et al., 2017): the last layer alone, and of its weighted sum what is above 0.
    - 'guided-backprop' (Springenberg et al., 2014): the derivative of the score by the photograph, where each
      ReLU (and ReLU6) passes back only what is above 0.
    - 'smoothgrad' (Smilkov et al., 2017; SmoothBP in the paper): the plain derivative, averaged over noisy
      copies of the photograph.

    A derivative by the photograph becomes a map as the sum of its absolute values over the channels; in
    'smoothgrad' of each copy, before the mean.

    pytorch-grad-cam has these methods too, but its results are numpy arrays without a graph, and the
    classification-aware loss (Eq. 4) must be differentiated through the map. So they are written here, and
    the tests compare them with it. The network is not changed, and its weights get no gradient.

    A network of convolutions and ReLU is linear in pieces: in evaluation mode the derivative of its logits
    does not change with the photograph, and a loss on 'guided-backprop' or 'smoothgrad' has the gradient 0
    there. It has another one where batch normalisation takes the statistics of the batch (training mode), or
    where `forward` ends in a softmax. The other two weigh feature maps, which do change.

    Args:
        kind: of `VISUALISATIONS`.
        forward: photographs -> logits (B, 5), as `lambda picture: network(picture, lesions)`.
        image: RGB in [0, 1], float (B, 3, H, W).
        layers: for 'gmsv' and 'grad-cam': modules whose outputs are feature maps, from the first to the last,
            as `GradingSubnet.feature_layers`.
        size: height and width of the result; None: the photograph's.
        create_graph: the map shall be differentiated itself.
        copies: for 'smoothgrad'; the network runs once for each.
        noise: for 'smoothgrad': its standard deviation, drawn by torch's global generator. Smilkov et al.
            take 0.1 to 0.2 of the range of the photograph's values.

    Returns:
        (B, 1, H, W), scaled to [0, 1] for each photograph; all 0 where the map is flat.

    Raises:
        MTLError: no such visualisation; 'guided-backprop' of a network without ReLU.

    >>> first = nn.Conv2d(3, 5, 3, stride=2)
    >>> forward = lambda picture: first(picture).relu().mean((2, 3))
    >>> [tuple(evidence(kind, forward, torch.rand(2, 3, 33, 33), [first]).shape) for kind in VISUALISATIONS]
    [(2, 1, 33, 33), (2, 1, 33, 33), (2, 1, 33, 33), (2, 1, 33, 33)]
    """
    # With a graph to follow, the photograph may be another network's output. Else it is cut off: what lies
    # before it has nothing to do.
    picture = image if create_graph and image.requires_grad else image.detach().requires_grad_()
    size = size or tuple(image.shape[-2:])
    match kind:
        case "gmsv":
            return gmsv(lambda: forward(picture), layers, size=size, create_graph=create_graph)
        case "grad-cam":
            maps, gradients = _listen(lambda: forward(picture), layers[-1:], positive_score, create_graph)
            found = _weighted(maps[0], gradients[0])[0].relu()
        case "guided-backprop":
            found = _saliency(forward, picture, create_graph, guided=True)
        case "smoothgrad":
            each = (_saliency(forward, picture, create_graph, noise=noise) for _ in range(copies))
            found = sum(each) / copies
        case _:
            raise MTLError(f"no visualisation {kind!r}. There are: {', '.join(VISUALISATIONS)}.")
    return _scaled(found, size, create_graph)


def _saliency(
    forward: Callable[[torch.Tensor], torch.Tensor],
    picture: torch.Tensor,
    create_graph: bool,
    guided: bool = False,
    noise: float = 0.0,
) -> torch.Tensor:
    """|d score / d photograph|, summed over the channels, (B, 1, H, W)."""
    with torch.enable_grad():
        moving = picture + noise * torch.randn_like(picture) if noise else picture
        total = positive_score(forward(moving)).sum()
    hooks = [node.register_prehook(_only_positive) for node in _relus(moving, total)] if guided else []
    if guided and not hooks:
        raise MTLError("guided back-propagation is about ReLU, and this network has none: use another kind")
    try:
        (gradient,) = torch.autograd.grad(total, moving, create_graph=create_graph)
    finally:
        # Else they would also meddle when a loss on the map goes back through the same graph.
        for hook in hooks:
            hook.remove()
    return gradient.abs().sum(dim=1, keepdim=True)


def _only_positive(gradients: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (gradients[0].relu(),)


def _relus(start: torch.Tensor, end: torch.Tensor) -> list[torch.autograd.graph.Node]:
    """The ReLU and ReLU6 steps from one tensor to another, found in the graph of the latter. Hooks there
    leave the modules alone, see functions as well as modules, and have no trouble with activations that work
    in place, which torch's backward hooks of modules refuse.
    """
    found, seen, waiting = [], {start.grad_fn}, [end.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.extend(earlier for earlier, _ in node.next_functions)
        # To torch ReLU6 is a clamp between 0 and 6.
        bounded = node.name() == "HardtanhBackward0" and node._saved_min_val == 0
        if bounded or node.name() == "ReluBackward0":
            found.append(node)
    return found


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


def evidence_agreement(evidence: np.ndarray, masks: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """How well does an evidence map point at each lesion, and at what is none (DeepMT-DR's Figure 2 c)?

    Args:
        evidence: (H, W).
        masks: bool (4, H, W), in the order of `DISEASE_LESIONS`.
        inside: bool (H, W), the pixels that count: the field of view.

    Returns:
        `agreement` with each of `DISEASE_LESIONS`, and with 'background', the pixels outside of every lesion.
        The latter is 1 minus the agreement with all lesions together. What the photograph cannot answer has
        no key: a lesion that it does not show, and the background where it shows none.

    >>> masks = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool).reshape(4, 1, 4)
    >>> evidence_agreement(np.array([[0.9, 0.8, 0.1, 0.0]]), masks, np.ones((1, 4), bool))
    {'MA': 1.0, 'HE': 0.333..., 'background': 0.25}
    """
    regions = dict(zip(DISEASE_LESIONS, masks, strict=True)) | {"background": ~masks.any(axis=0)}
    found = {name: agreement(evidence, region, inside) for name, region in regions.items()}
    return {name: value for name, value in found.items() if not np.isnan(value)}
