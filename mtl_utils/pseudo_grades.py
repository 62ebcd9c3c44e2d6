"""Stage 1 of PLDMLT: grades for photographs that have masks only (Liu and Huang, 2023, section 3.1).

Two classifiers look at a photograph, and the more confident one names its grade. Then the masks have a say:
grades that the drawn lesions contradict, and grades whose heat map (`explain.grad_cam`) misses the lesions or
sits on the optic disc, are ruled out; the most probable of the others is the pseudo grade.

Ours in this: the paper gives the medical facts as a reason to compare heat maps, and does not let them rule
out a grade by themselves; nor does it say what follows where the named grade is ruled out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mtl_utils.data.augment import resize_recipe
from mtl_utils.data.dataset import UNKNOWN_GRADE, FundusDataset
from mtl_utils.data.fov import inside_field_of_view
from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.errors import DataError, MTLError
from mtl_utils.explain import agreement, grad_cam
from mtl_utils.files import write_whole
from mtl_utils.lesions import DISEASE_LESIONS, GRADES, LESIONS
from mtl_utils.metrics import grading_metrics
from mtl_utils.systems.base import FundusNetwork

FILE = "pseudo-grades.json"


@dataclass(frozen=True)
class Rule:
    """What a grade says of the kinds of lesions that a photograph shows.

    Attributes:
        fewest, most: numbers of kinds.
        among: all kinds are among these.
        besides: at least one kind is not among these.
    """

    fewest: int = 0
    most: int = len(DISEASE_LESIONS)
    among: tuple[str, ...] = DISEASE_LESIONS
    besides: tuple[str, ...] = ()

    def allows(self, lesions: Sequence[str]) -> bool:
        """Can a photograph with these kinds of lesions have the grade?"""
        kinds = set(lesions)
        beyond = kinds - set(self.besides) if self.besides else True
        return bool(self.fewest <= len(kinds) <= self.most and kinds <= set(self.among) and beyond)


MEDICAL_RULES: Mapping[int, Rule] = {
    0: Rule(most=0),
    1: Rule(fewest=1, most=1, among=("MA",)),
    2: Rule(fewest=1, besides=("MA",)),
    3: Rule(fewest=3),
    4: Rule(fewest=3),
}
"""The facts of section 3.1 as rules, which is our step: 0 no lesion; 1 only microaneurysms; 2 not only these;
3 and 4 'more than them' in the number of kinds, which we read as three at least."""


@dataclass(frozen=True)
class HeatMapRules:
    """When does a heat map rule its grade out? The paper judges by eye and prints no number.

    Attributes:
        min_lesion_auc: with a lower `explain.agreement` with the lesions the heat map misses them; 0.5 is
            chance.
        max_disc_auc: with a higher one with the optic disc it sits there.
    """

    min_lesion_auc: float = 0.5
    max_disc_auc: float = 0.9


@dataclass(frozen=True)
class PseudoGrades:
    """What stage 1 found, and what follows from it.

    Attributes:
        table: a row per photograph: `row` (position in the working copy's table), `name`, `lesions` (the
            kinds that are drawn, 'MA EX'), `classifier` (which was more confident, 0 or 1), its probabilities
            `p0` to `p4`, and for each grade's heat map `lesion_auc0` .. and `disc_auc0` ..
            (`explain.agreement`; NaN where there is no disc, or no lesion: then the heat maps are not asked).
        about: 'data_fingerprint', and 'makers', the digests of the classifiers' checkpoints; from `stage_one`
            also the 'seed' and 'profile' of their runs.
        rules: which grades the drawn lesions rule out; None: none.
        heat_maps: which grades their heat maps rule out; None: none.
    """

    table: pd.DataFrame
    about: dict
    rules: Mapping[int, Rule] | None = field(default_factory=lambda: MEDICAL_RULES)
    heat_maps: HeatMapRules | None = HeatMapRules()

    def _columns(self, name: str) -> np.ndarray:
        return self.table[[f"{name}{grade}" for grade in GRADES]].to_numpy(float)

    @property
    def rows(self) -> np.ndarray:
        """Positions in the working copy's table, int (N,)."""
        return self.table.row.to_numpy(int)

    @property
    def probabilities(self) -> np.ndarray:
        """Of the more confident classifier, float (N, 5)."""
        return self._columns("p")

    @property
    def initial(self) -> np.ndarray:
        """The grades before anything is ruled out, int (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def plausible(self) -> np.ndarray:
        """Which grades are left, bool (N, 5). A step that would leave a photograph none is not asked."""
        steps = []
        if self.rules is not None:
            kinds = self.table.lesions.str.split()
            steps.append([[self.rules[grade].allows(drawn) for grade in GRADES] for drawn in kinds])
        if self.heat_maps is not None:
            seen = self._columns("lesion_auc") >= self.heat_maps.min_lesion_auc
            steps.append(seen & ~(self._columns("disc_auc") > self.heat_maps.max_disc_auc))  # NaN: no disc
        left = np.ones((len(self.table), len(GRADES)), bool)
        for step in steps:
            both = left & np.array(step, bool)
            left = np.where(both.any(axis=1, keepdims=True), both, left)
        return left

    @property
    def adjusted(self) -> np.ndarray:
        """The most probable of the grades that are left, int (N,)."""
        return np.where(self.plausible, self.probabilities, -1).argmax(axis=1)

    def by_row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """For a working copy's table of `number` rows: the adjusted grades, int64 (number,), -1 where there
        is none; and the plausible ones, bool (number, 5), all where there is none.
        """
        grades = np.full(number, UNKNOWN_GRADE, np.int64)
        plausible = np.ones((number, len(GRADES)), bool)
        grades[self.rows], plausible[self.rows] = self.adjusted, self.plausible
        return grades, plausible

    @property
    def digest(self) -> str:
        """What a run knows them by: other classifiers, other grades or other plausible grades change it."""
        seen = (self.about["makers"], self.rows, self.adjusted, self.plausible.astype(int))
        return sha256(json.dumps([np.asarray(part).tolist() for part in seen]).encode()).hexdigest()

    def require(self, seed: int, profile: str) -> None:
        """Refuse pseudo grades of runs with another seed or profile; files of before tell neither.

        Raises:
            MTLError: they are of others.
        """
        for key, value in (("seed", seed), ("profile", profile)):
            if (there := self.about.get(key, value)) != value:
                raise MTLError(f"these pseudo grades are of {key} {there}, and this run has {key} {value}")

    def write(self, folder: str | Path) -> Path:
        """Write them to a folder, whole or not at all. Returns the file's path."""
        path = Path(folder) / FILE
        table = self.table.astype(object).where(self.table.notna(), None)
        content = json.dumps({**self.about, "table": table.to_dict(orient="list")})
        write_whole({path: content.encode()})
        return path

    @classmethod
    def open(cls, path: str | Path) -> PseudoGrades:
        """Read what `write` wrote: the file, or the one in this folder.

        Raises:
            DataError: there is no such file, or it is damaged.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            table = pd.DataFrame(about.pop("table"))
            grades = cls(table, about)
            # these need all that decides
            about["data_fingerprint"], about["makers"], grades.rows, grades.adjusted
        except FileNotFoundError as error:
            raise DataError(f"no pseudo grades {path}. Make them with 'mtl train pldmlt'.") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(
                f"{path} holds no pseudo grades, or is damaged ({error}). Give the {FILE} of stage 1. If "
                "this is it, delete it: without --first stage 1 makes it again."
            ) from error
        return grades


STEPS = {
    "before": (None, None),
    "medical rules": (MEDICAL_RULES, None),
    "heat maps": (None, HeatMapRules()),
    "both": (MEDICAL_RULES, HeatMapRules()),
}
"""What each way of ruling grades out gives, to be compared: rules and heat maps of `PseudoGrades`."""


def measure(pseudo: PseudoGrades, known: np.ndarray, n_bootstrap: int = 0, seed: int = 0) -> pd.DataFrame:
    """How good are pseudo grades, where the true grade is known? The paper could not tell.

    Args:
        pseudo: from classifiers that saw none of these photographs.
        known: true grades of the whole working copy, -1 where unknown (`pseudo.known_grades`).
        n_bootstrap: draws for the intervals.
        seed: of the draws.

    Returns:
        A row for each of `STEPS` with `photographs`, accuracy, qwk and their intervals (`/low`, `/high`);
        empty where no photograph's grade is known.
    """
    truth = known[pseudo.rows]
    judged = truth != UNKNOWN_GRADE
    if not judged.any():
        return pd.DataFrame()
    found = {}
    for step, (rules, heat_maps) in STEPS.items():
        grades = replace(pseudo, rules=rules, heat_maps=heat_maps).adjusted[judged]
        scores = grading_metrics(truth[judged], np.eye(len(GRADES))[grades], n_bootstrap, seed)
        wanted = ("grading/accuracy", "grading/qwk")
        chosen = {key.removeprefix("grading/"): scores[key] for key in scores if key.startswith(wanted)}
        found[step] = {"photographs": int(judged.sum()), **chosen}
    return pd.DataFrame(found).T


@torch.no_grad()
def _probabilities(network: FundusNetwork, images: torch.Tensor) -> torch.Tensor:
    return network(images, ("grading",))["grading"].float().softmax(dim=1)


def make_pseudo_grades(
    classifiers: Sequence[FundusNetwork],
    sizes: Sequence[int],
    copy: WorkingCopy,
    rows: Sequence[int],
    makers: Sequence[str],
    progress: bool = True,
    **runs: object,
) -> PseudoGrades:
    """Let classifiers grade photographs with masks, and compare the heat map of every grade with the masks.

    The heat maps are those of the classifier that named the photograph's grade. (The paper's Figure 6 has
    one classifier for all, 'the better-trained'.)

    Args:
        classifiers: networks with the task 'grading', in evaluation mode.
        sizes: side of the pictures that each one sees, in pixels.
        copy: the working copy.
        rows: positions in its table, of photographs with masks.
        makers: what the networks are known by, as `pseudo.file_digest` of their checkpoints.
        progress: show a bar.
        **runs: more to note in `PseudoGrades.about`, as `stage_one` does.
    """
    lines = []
    for row in tqdm(list(map(int, rows)), desc="pseudo grades", disable=not progress):
        images = [
            _picture(copy, row, size, network) for network, size in zip(classifiers, sizes, strict=True)
        ]
        answers = [_probabilities(*pair)[0] for pair in zip(classifiers, images, strict=True)]
        best = int(np.argmax([answer.max().item() for answer in answers]))
        heat = grad_cam(classifiers[best], images[best])[0]
        entry = copy.table.iloc[row]
        line = {
            "row": row,
            "name": entry["name"],
            "lesions": " ".join(lesion for lesion in DISEASE_LESIONS if pd.notna(entry[lesion])),
            "classifier": best,
        }
        line |= {f"p{grade}": value for grade, value in zip(GRADES, answers[best].tolist(), strict=True)}
        lines.append(line | _agreements(heat, copy, row))
    about = {"data_fingerprint": copy.fingerprint, "makers": list(makers), **runs}
    return PseudoGrades(pd.DataFrame(lines), about)


def _picture(copy: WorkingCopy, row: int, size: int, network: FundusNetwork) -> torch.Tensor:
    """One photograph as the network sees it, (1, 3, size, size)."""
    image = FundusDataset(copy, [row], resize_recipe(size))[0]["image"]
    return image[None].to(network.mean.device)


def _agreements(heat: np.ndarray, copy: WorkingCopy, row: int) -> dict[str, float]:
    """Of each grade's heat map (5, H, W) with the lesions and with the optic disc."""
    picture = cv2.resize(copy.image(row), heat.shape[-2:][::-1], interpolation=cv2.INTER_AREA)
    inside = inside_field_of_view(picture) > 0
    masks = copy.mask(row)
    lesions = masks[[LESIONS.index(lesion) for lesion in DISEASE_LESIONS]].max(axis=0)
    found = {}
    for name, mask in (("lesion", lesions), ("disc", masks[LESIONS.index("OD")])):
        # A pixel of the small picture is marked where any of its pixels is: small lesions shall not vanish.
        small = cv2.resize(mask * 255, heat.shape[-2:][::-1], interpolation=cv2.INTER_AREA) > 0
        for grade in GRADES:
            found[f"{name}_auc{grade}"] = agreement(heat[grade], small, inside)
    return found
