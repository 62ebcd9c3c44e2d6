"""Grades from findings, the course's own: nothing is learned by gradients but the lesions.

Two opinions on the grade are averaged. A random forest reads it from what a lesion network found; a support
vector machine from the features of an encoder that has seen nothing but ImageNet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mtl_utils.encoders import create_encoder
from mtl_utils.errors import MTLError
from mtl_utils.findings import findings
from mtl_utils.label_spaces import LabelSpace
from mtl_utils.lesions import GRADES
from mtl_utils.systems.base import FundusNetwork
from mtl_utils.systems.baselines import LesionBaseline

OPINIONS = ("findings", "appearance")
SHALLOWEST = 2
"""Features of 1/4 of the side and below count as appearance; finer ones hardly know more than colours."""


class FindingsGrader(FundusNetwork):
    """A lesion network (U-Net), an encoder as ImageNet left it, and two classifiers of scikit-learn.

    The classifiers are not stored: a checkpoint holds what they learned from, some hundred rows of numbers,
    and they are fitted again from it. That takes seconds, and a checkpoint stays data and no code.

    Args:
        encoder_name: of both encoders; see `encoders.create_encoder`.
        encoder_weights: of the encoder that looks; the lesion network's come from its own training.
        space: the lesion network's label space.
        seed: of the forest.

    Raises:
        MTLError: what `create_encoder` raises; `forward` before `learn`.
    """

    def __init__(
        self, encoder_name: str, encoder_weights: str | None, space: LabelSpace, seed: int = 0
    ) -> None:
        super().__init__(create_encoder(encoder_name, encoder_weights), ("grading",))
        self.lesion_network = LesionBaseline("unet", encoder_name, None, space)
        self.seed = seed
        self.known: dict[str, torch.Tensor] = {}
        self.classifiers: dict[str, ClassifierMixin] = {}

    @torch.no_grad()
    def describe(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the opinions are built on.

        Args:
            image: RGB in [0, 1], float (B, 3, H, W).

        Returns:
            'findings': float32 (B, lesions * 15), see `findings.findings`; 'appearance': float32 (B,
            features), mean, standard deviation and maximum of each channel of the encoder's deeper feature
            maps.
        """
        space = self.lesion_network.space
        logits = self.lesion_network(image)["segmentation"].float()
        probabilities = space.of_marked(space.probabilities(logits)).cpu().numpy()
        maps = [level.float().flatten(2) for level in self.features(image)[SHALLOWEST:]]
        pooled = [pool for level in maps for pool in (level.mean(2), level.std(2), level.amax(2))]
        return {
            "findings": torch.from_numpy(np.stack([findings(each) for each in probabilities])),
            "appearance": torch.cat(pooled, dim=1).cpu(),
        }

    def learn(self, described: dict[str, torch.Tensor], grades: torch.Tensor) -> None:
        """Fit both classifiers. A grade that one photograph alone has is left out: it cannot be learned.

        Args:
            described: as `describe` gives it, for N photographs.
            grades: their grades, int (N,).

        Raises:
            MTLError: fewer than two grades have two photographs.
        """
        counts = torch.bincount(grades)
        often = counts >= 2
        if often.sum() < 2:
            raise MTLError("the grader from findings needs two photographs of each of two grades at least")
        kept = often[grades]
        described, grades = {name: rows[kept] for name, rows in described.items()}, grades[kept]
        self.known = {**described, "grade": grades}
        folds = min(5, int(counts[often].min()))
        forest = RandomForestClassifier(500, min_samples_leaf=2, random_state=self.seed)
        machine = _support_vectors(described["appearance"].shape[1], folds)
        for opinion, model in zip(OPINIONS, (forest, machine), strict=True):
            self.classifiers[opinion] = model.fit(described[opinion].numpy(), grades.numpy())

    def opinions(self, image: torch.Tensor) -> dict[str, np.ndarray]:
        """Probabilities of the five grades by each of `OPINIONS`, float (B, 5)."""
        if not self.classifiers:
            raise MTLError("this grader has not learned yet: call `learn` first")
        described = self.describe(image)
        given = {}
        for opinion, model in self.classifiers.items():
            given[opinion] = np.zeros((len(image), len(GRADES)))
            given[opinion][:, model.classes_] = model.predict_proba(described[opinion].numpy())
        return given

    def heads(self, features: Sequence[torch.Tensor], tasks: Sequence[str]) -> dict[str, torch.Tensor]:
        raise MTLError("the grader from findings has no head on features: call it with photographs")

    def forward(self, image: torch.Tensor, tasks: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Logarithms of the mean of both opinions, as 'grading', float32 (B, 5)."""
        mean = np.mean(list(self.opinions(image).values()), axis=0)
        return {"grading": torch.from_numpy(mean).clamp_min(1e-6).log().float().to(image.device)}

    def get_extra_state(self) -> dict[str, torch.Tensor]:
        return self.known

    def set_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        if state:
            self.learn({opinion: state[opinion] for opinion in OPINIONS}, state["grade"])


def _support_vectors(features: int, folds: int) -> Pipeline:
    """Radial basis functions, of a width that goes with the number of features."""
    machine = SVC(C=10, gamma=0.1 / features)
    return make_pipeline(StandardScaler(), CalibratedClassifierCV(machine, ensemble=False, cv=folds))
