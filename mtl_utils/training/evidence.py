"""Where does a grading subnet look, and does it look where lesions were drawn? (DeepMT-DR, Figure 2 c)"""

from __future__ import annotations

import pandas as pd
import torch
from torch.nn import functional as F

from mtl_utils.data.augment import resize_recipe
from mtl_utils.data.dataset import FundusDataset
from mtl_utils.data.fov import inside_field_of_view
from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.explain import evidence_agreement
from mtl_utils.metrics import mean_metrics
from mtl_utils.systems.deepmt_dr import DeepMTDR
from mtl_utils.training.config import Config


@torch.no_grad()
def evidence_scores(network: DeepMTDR, config: Config, copy: WorkingCopy, role: str = "test") -> pd.DataFrame:
    """The evidence of each photograph with masks, as the system grades it: made small, and large again.

    Args:
        network: with a grading subnet, from `load_model`, with its `config`.
        copy: working copy.
        role: 'test' or 'val'.

    Returns:
        A row per photograph: `name`, and the AUC of its evidence map against each of MA, HE, EX, SE that it
        has, and against `background` (`explain.evidence_agreement`). Empty where no photograph has masks.
    """
    torch.manual_seed(config.seed)  # SmoothGrad adds noise
    rows = config.parts(copy.table).rows(role, "segmentation")
    dataset = FundusDataset(copy, rows, resize_recipe(config.grading_size), space=config.space)
    device, found = next(network.parameters()).device, []
    for row, sample in zip(rows, dataset, strict=True):
        original = sample["image"]
        picture = network.enlarged(network.small(original[None].to(device)))
        map_ = F.interpolate(network.evidence(picture), original.shape[-2:], mode="bilinear")
        pixels = (original * 255).round().byte().permute(1, 2, 0).numpy()
        inside = inside_field_of_view(pixels).astype(bool)
        masks = sample["mask"].numpy().astype(bool)
        name = copy.table.name.iloc[row]
        found.append({"name": name, **evidence_agreement(map_[0, 0].float().cpu().numpy(), masks, inside)})
    return pd.DataFrame(found)


def evidence_metrics(scores: pd.DataFrame, n_bootstrap: int = 0, seed: int = 0) -> dict[str, float]:
    """Means over photographs of `evidence_scores`: `evidence/auc/MA` .., `evidence/auc/background`, with
    n_bootstrap > 0 also with `/low` and `/high`.
    """
    columns = scores.drop(columns="name", errors="ignore")
    return mean_metrics(columns, "evidence/auc", n_bootstrap, seed)
