"""A closer look at results: is one system better than another, is it as sure as it may be, what does it
overlook, which cases are shown, and did it know the test photographs?

The functions take what a record keeps of each photograph (`per_photograph`), or masks and probabilities.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from skimage.measure import label, regionprops_table
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import binary_calibration_error

from mtl_utils.errors import MTLError
from mtl_utils.lesions import DISEASE_LESIONS, GRADES, LESIONS
from mtl_utils.metrics import Weighted, confusion, grading_metrics, with_intervals

PROBABILITIES = [f"p{grade}" for grade in GRADES]
"""Columns of a table of graded photographs."""


# ----------------------------------------------------------------------------------- photograph by photograph
def graded(per_photograph: Sequence[Mapping] | pd.DataFrame) -> pd.DataFrame:
    """The graded photographs of a record, or of `Scores.per_photograph`.

    Returns:
        Index the name, sorted; columns `grade`, `p0` .. `p4`, `predicted` (the most probable grade), its
        probability `confidence`, and `right`. Empty where nothing was graded.

    >>> table = graded([{"name": "x", "task": "grading", "grade": 2, "p0": 0.1, "p1": 0, "p2": 0.9, "p3": 0,
    ...                  "p4": 0}])
    >>> table.predicted["x"].item(), table.confidence["x"].item(), table.right["x"].item()
    (2, 0.9, True)
    """
    table = _of_task(per_photograph, "grading").reindex(columns=["grade", *PROBABILITIES]).astype(float)
    return _answered(table.grade.astype(int), table[PROBABILITIES])


def _answered(grade: pd.Series, chances: pd.DataFrame) -> pd.DataFrame:
    """The table of `graded`."""
    table = chances.copy()
    table.insert(0, "grade", grade)
    table["predicted"] = chances.to_numpy().argmax(axis=1)
    table["confidence"] = chances.max(axis=1)
    table["right"] = table.predicted == table.grade
    return table


def ensemble(answers: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several networks as one: the mean of their probabilities (Lakshminarayanan et al., 2017).

    Args:
        answers: a table as from `graded` for each network, of the same photographs.

    Returns:
        A table as from `graded`.

    Raises:
        MTLError: the tables are of different photographs, or name different grades for one.
    """
    grade = answers[0].grade
    if not all(grade.equals(table.grade) for table in answers):
        raise MTLError(
            "the networks of an ensemble must have graded the same photographs, with the same grades"
        )
    return _answered(grade, sum(table[PROBABILITIES] for table in answers) / len(answers))


def drawn(per_photograph: Sequence[Mapping] | pd.DataFrame) -> pd.DataFrame:
    """The photographs with masks of a record, or of `Scores.per_photograph`.

    Returns:
        Index the name, sorted; a column of Dice for each thing that was marked (NaN where the photograph has
        none), `report_dice`, and `lesions`, the mean Dice of those of MA, HE, EX and SE that it has. Empty
        where nothing was segmented.
    """
    table = _of_task(per_photograph, "segmentation").drop(columns=["grade", *PROBABILITIES], errors="ignore")
    table = table.astype(float).dropna(axis="columns", how="all")
    return table.assign(lesions=table.reindex(columns=list(DISEASE_LESIONS)).mean(axis=1))


def _of_task(per_photograph: Sequence[Mapping] | pd.DataFrame, task: str) -> pd.DataFrame:
    table = pd.DataFrame(per_photograph, columns=None if len(per_photograph) else ["name", "task"])
    return table[table.task == task].drop(columns="task").set_index("name").sort_index()


# --------------------------------------------------------------------------------------------- two systems
class McNemar(NamedTuple):
    """Photographs that only one of two systems has right, and how surprising the split is if both are equally
    good.
    """

    only_one: int
    only_other: int
    p: float


def mcnemar(right_one: Sequence[bool], right_other: Sequence[bool]) -> McNemar:
    """McNemar's exact test: are two systems right equally often? (McNemar, Psychometrika 12, 1947)

    Photographs that both have right, or both have wrong, say nothing about which one is better. If they are
    equally good, each of the others is the toss of a coin. p, two-sided, by scipy's `binomtest`.

    Args:
        right_one, right_other: was the answer right, for the same photographs in the same order, (N,).

    Raises:
        MTLError: not as many answers of one as of the other.

    >>> mcnemar([True] * 6 + [True, False], [False] * 6 + [True, False])  # six tosses that fall alike
    McNemar(only_one=6, only_other=0, p=0.03125)
    """
    one, other = (np.asarray(right, bool) for right in (right_one, right_other))
    if one.shape != other.shape:
        raise MTLError(f"{len(one)} answers against {len(other)}: compare the same photographs")
    b, c = int((one & ~other).sum()), int((~one & other).sum())
    return McNemar(b, c, float(binomtest(b, b + c).pvalue) if b + c else 1.0)


def paired_bootstrap(
    one: Sequence[Weighted], other: Sequence[Weighted], n: int, n_bootstrap: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """By how much is one system better than another on the same n photographs?

    The photographs are drawn, and in each draw both systems are scored on the same ones: what is easy or hard
    for both cancels. With several runs of a system (other seeds) its value is their mean; how far runs lie
    apart the interval does not tell, since no seeds are drawn.

    Args:
        one, other: the runs of each system, as `metrics.grading_values` or `SegmentationMetrics.values`; all
            of the same photographs in the same order.
        n: photographs.

    Returns:
        A row per metric that both have: `one`, `other`, `difference` (one minus other), `low` and `high`, its
        95 % bootstrap interval.
    """

    def values(weights: np.ndarray) -> dict[str, np.ndarray]:
        means = []
        for runs in (one, other):
            found = [run(weights) for run in runs]
            common = [name for name in found[0] if all(name in each for each in found)]
            means.append({name: np.mean([each[name] for each in found], axis=0) for name in common})
        rows = {}
        for name in means[0]:
            if name in means[1]:
                rows |= {f"{name} one": means[0][name], f"{name} other": means[1][name]}
                rows[name] = means[0][name] - means[1][name]
        return rows

    found = with_intervals(values, n, n_bootstrap, seed)
    names = [name for name in found if f"{name} one" in found]
    rows = {
        name: [found[f"{name} one"], found[f"{name} other"], found[name]]
        + [found.get(f"{name}/{end}", np.nan) for end in ("low", "high")]
        for name in names
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["one", "other", "difference", "low", "high"])


def verdict(low: float, high: float) -> str:
    """What the 95 % interval of a difference allows to say: 'better', 'worse' or 'not to be told apart'.

    >>> verdict(0.1, 0.4), verdict(-0.1, 0.4)
    ('better', 'not to be told apart')
    """
    return "better" if low > 0 else "worse" if high < 0 else "not to be told apart"


def confusions(grades: Sequence[int], predictions: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Which grades are taken for which? Mistakes, the most frequent first.

    Args:
        grades: true ones, (N,).
        predictions: of each run, (runs, N).

    Returns:
        A row per pair of different grades that occurs: `true`, `predicted`, `photographs` (mean over the
        runs), and `share` of the photographs with this true grade.
    """
    matrix = np.mean([confusion(grades, run) for run in predictions], axis=0)
    true, predicted = np.nonzero(matrix * ~np.eye(len(GRADES), dtype=bool))
    counts = matrix[true, predicted]
    table = pd.DataFrame({"true": true, "predicted": predicted, "photographs": counts})
    table["share"] = counts / matrix.sum(axis=1)[true]
    return table.sort_values(["photographs", "share"], ascending=False, ignore_index=True)


# --------------------------------------------------------------------------------------------- calibration
def reliability_bins(confidence: Sequence[float], right: Sequence[bool], bins: int = 10) -> pd.DataFrame:
    """How often are answers right that are equally sure?

    Args:
        confidence: probability of the answer that was given, in [0, 1], (N,).
        right: was it right, (N,).
        bins: equally wide parts of [0, 1]; what lies on an edge belongs to the upper one.

    Returns:
        A row per bin that is not empty: `low`, `high`, mean `confidence`, share `right`, `photographs`.
    """
    confidence = np.asarray(confidence, float)
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    table = pd.DataFrame({"confidence": confidence, "right": np.asarray(right, float)})
    groups = table.groupby(place)
    found = groups.mean().assign(photographs=groups.size())
    found.insert(0, "low", found.index / bins)
    found.insert(1, "high", (found.index + 1) / bins)
    return found.reset_index(drop=True)


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error (Naeini et al., 2015; Guo et al., 2017), by torchmetrics: the mean distance
    between confidence and share of right answers, over bins, each as heavy as it has photographs.

    Arguments as `reliability_bins`. 0 is best. Few photographs make it too large: see `calibrated_errors`.

    >>> round(calibration_error([0.75] * 4, [True, True, True, False]), 3), calibration_error([1.0], [False])
    (0.0, 1.0)
    """
    pair = torch.tensor(np.asarray(confidence, float)), torch.tensor(np.asarray(right, int))
    return float(binary_calibration_error(*pair, n_bins=bins, norm="l1"))


def through_thresholds(
    curve: tuple[np.ndarray, np.ndarray, np.ndarray], thresholds: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, float]:
    """A precision-recall curve that knows some thresholds only, and the area below it: the sum of (recall
    gained) x precision, from the highest threshold down, as AUPR is.

    Args:
        curve: precision (T+1,), recall (T+1,), thresholds (T,), as from `SegmentationMetrics.curve`.
        thresholds: rising from 0, where everything is marked.

    Returns:
        Precision and recall at each of `thresholds`, and the area.

    >>> curve = np.array([0.25, 0.5, 1, 1]), np.array([1, 1, 0.5, 0]), np.array([0.1, 0.991, 0.995])
    >>> through_thresholds(curve, [0, 0.992])[2], through_thresholds(curve, [0, 0.5])[2]
    (0.625, 0.5)
    """
    precision, recall, known = curve
    places = np.searchsorted(known, thresholds)
    at = precision[places], recall[places]
    return *at, float(-np.diff([*at[1], 0]) @ at[0])


def calibrated_errors(
    confidence: Sequence[float], bins: int = 10, draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """Expected calibration errors of a network that is as sure as it may be, (draws,): each answer is right
    with just the probability that it claims. They are above 0 by chance alone, the more the fewer answers.
    """
    confidence = np.asarray(confidence, float)
    rng = np.random.default_rng(seed)
    return np.array(
        [calibration_error(confidence, rng.random(len(confidence)) < confidence, bins) for _ in range(draws)]
    )


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, K) after their logits were divided by a temperature: above 1 less sure, below 1 more.
    The order within a row stays.

    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()  # ratio 4 becomes its root, 2
    [[0.667, 0.333]]
    """
    powers = np.asarray(probabilities, float).clip(1e-12) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def middle_grade(probabilities: np.ndarray) -> np.ndarray:
    """The grade nearest to the mean grade of each photograph's probabilities (N, 5) -> (N,); halves go up.

    Naming grade a costs sum_g p_g (a - g)^2 = (a - mean)^2 + variance, if the cost is the squared distance,
    which quadratic weighted kappa adds up: the nearest to the mean costs least.

    >>> middle_grade(np.array([[0.4, 0, 0.3, 0, 0.3]]))  # the likeliest is 0, the mean 1.8
    array([2])
    """
    mean = np.asarray(probabilities, float) @ np.array(GRADES)
    return np.floor(mean.round(9) + 0.5).astype(int)


def scores_by_rule(per_photograph: Sequence[Mapping] | pd.DataFrame) -> pd.DataFrame:
    """Accuracy and quadratic weighted kappa of the same probabilities, if the likeliest grade is named and if
    the middle one is.

    Returns:
        Rows `likeliest` and `middle`, columns `accuracy` and `QWK` (NaN where all is one grade).
    """
    table = graded(per_photograph)
    middle = np.eye(len(GRADES))[middle_grade(table[PROBABILITIES])]
    named = {"likeliest": table[PROBABILITIES].to_numpy(), "middle": middle}
    found = {rule: grading_metrics(table.grade, chances) for rule, chances in named.items()}
    shown = {"grading/accuracy": "accuracy", "grading/qwk": "QWK"}
    return pd.DataFrame(found).T.reindex(columns=list(shown)).rename(columns=shown)


def scores_of_ensemble(answers: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Scores of several networks alone and of their `ensemble`, on the same photographs.

    Returns:
        A row for each table of `answers`, and the ensemble's last; columns `accuracy`, `QWK` and
        `cross-entropy`, the mean of -ln(probability of the true grade).
    """
    rows = []
    for table in [*answers, ensemble(answers)]:
        chances = table[PROBABILITIES].to_numpy()
        found = grading_metrics(table.grade, chances)
        whole = tempered(chances, 1.0)  # a record rounds: to zeros, and to sums near 1
        rows.append(
            {
                "accuracy": found["grading/accuracy"],
                "QWK": found.get("grading/qwk", np.nan),
                "cross-entropy": log_loss(table.grade, whole, labels=GRADES),
            }
        )
    return pd.DataFrame(rows)


def fit_temperature(grades: Sequence[int], probabilities: np.ndarray) -> float:
    """The temperature under which the true grades of *validation* photographs are most probable (Guo et al.,
    2017): one number for the whole network.

    Args:
        grades: (N,).
        probabilities: (N, 5).

    Returns:
        Between 1/20 and 20, where the search ends: a network that is always right wants to be ever surer.
    """

    def loss(log_temperature: float) -> float:
        return log_loss(grades, tempered(probabilities, np.exp(log_temperature)), labels=GRADES)

    edge = np.log(20)
    return float(np.exp(minimize_scalar(loss, bounds=(-edge, edge), method="bounded").x))


# ------------------------------------------------------------------------------------------------- lesions
def lesion_counts(masks: np.ndarray) -> dict[str, int]:
    """How many separate lesions of each kind are there? Pixels that touch, also by a corner, are one lesion.

    Args:
        masks: 0 or 1, (5, H, W) in the order of `LESIONS`.

    Returns:
        MA, HE, EX and SE -> number; the disc is none.
    """
    return {name: int(label(masks[LESIONS.index(name)] > 0).max()) for name in DISEASE_LESIONS}


def dice(truth: np.ndarray, marked: np.ndarray) -> float:
    """Dice of two masks, bool (H, W); NaN where there is nothing to find.

    >>> dice(np.array([[1, 1, 0]]), np.array([[0, 1, 0]])).__round__(3)
    0.667
    """
    truth, marked = np.asarray(truth) > 0, np.asarray(marked) > 0
    return float(2 * (truth & marked).sum() / (truth.sum() + marked.sum())) if truth.any() else float("nan")


def found_lesions(truth: np.ndarray, marked: np.ndarray) -> pd.DataFrame:
    """How much of each single lesion is found?

    Args:
        truth, marked: bool (H, W), of one kind of lesion.

    Returns:
        A row per lesion (pixels that touch, also by a corner): `area` in pixels, and the share `recall` of it
        that is marked.
    """
    regions = label(np.asarray(truth) > 0)
    if not regions.any():
        return pd.DataFrame({"area": np.zeros(0), "recall": np.zeros(0)})
    found = regionprops_table(regions, np.asarray(marked, float), properties=("area", "intensity_mean"))
    return pd.DataFrame(found).rename(columns={"intensity_mean": "recall"})


def lesion_sizes(
    truths: np.ndarray, marked: np.ndarray, names: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What size does to lesions, one by one and photograph by photograph.

    Args:
        truths, marked: 0 or 1, (N, 5, H, W) in the order of `LESIONS`.
        names: of the photographs, (N,).

    Returns:
        - a row per single lesion of MA, HE, EX and SE: `name`, `lesion`, `area`, `recall` (`found_lesions`);
        - a row per photograph and kind of lesion that it has: `name`, `lesion`, `area` (all its true pixels),
          `dice`.
    """
    single, whole = [], []
    for name, truth, marks in zip(names, np.asarray(truths) > 0, np.asarray(marked) > 0, strict=True):
        for lesion in DISEASE_LESIONS:
            true, found = (masks[LESIONS.index(lesion)] for masks in (truth, marks))
            if true.any():
                single.append(found_lesions(true, found).assign(name=name, lesion=lesion))
                row = {"name": name, "lesion": lesion, "area": int(true.sum()), "dice": dice(true, found)}
                whole.append(row)
    columns = ["name", "lesion", "area"]
    empty = pd.DataFrame(columns=[*columns, "recall"])
    return (
        pd.concat(single, ignore_index=True)[[*columns, "recall"]] if single else empty,
        pd.DataFrame(whole, columns=[*columns, "dice"]),
    )


def recall_by_size(
    lesions: pd.DataFrame, edges: Sequence[float], n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Mean recall of lesions that are about equally large, with an interval.

    Args:
        lesions: a row per lesion: `name` of the photograph, `area`, `recall`.
        edges: of the sizes; a lesion belongs to [edge, next edge).

    Returns:
        A row per size that occurs: `low`, `high`, mean `area`, mean `recall`, its 95 % bootstrap interval
        over photographs `recall_low` to `recall_high`, and `lesions`, how many there are.
    """
    names, photograph = np.unique(lesions.name, return_inverse=True)
    size = np.digitize(lesions.area.astype(float), edges) - 1
    kinds = [kind for kind in range(len(edges) - 1) if (size == kind).any()]
    recall, counts = np.zeros((2, len(kinds), len(names)))
    for place, kind in enumerate(kinds):
        own = size == kind
        counts[place] = np.bincount(photograph[own], minlength=len(names))
        recall[place] = np.bincount(photograph[own], lesions.recall[own].astype(float), minlength=len(names))

    def values(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):  # a draw may hold no lesion of a size
            shares = (weights @ recall.T) / (weights @ counts.T)
        return {str(kind): shares[:, place] for place, kind in enumerate(kinds)}

    found = with_intervals(values, len(names), n_bootstrap, seed)
    rows = [
        {
            "low": edges[kind],
            "high": edges[kind + 1],
            "area": lesions.area[size == kind].astype(float).mean(),
            "recall": found[str(kind)],
            "recall_low": found.get(f"{kind}/low", np.nan),
            "recall_high": found.get(f"{kind}/high", np.nan),
            "lesions": int((size == kind).sum()),
        }
        for kind in kinds
    ]
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------------- cases
CASES = {"best": 1.0, "median": 0.5, "worst": 0.0}


def representative_cases(scores: pd.Series, quantiles: Mapping[str, float] = CASES) -> pd.DataFrame:
    """Which photographs are shown? Not those that somebody picks: those at named quantiles of a named score.

    Photographs are sorted by their score, those with equal scores by name; the quantile q is the one at place
    floor(q * (N - 1)). Photographs without a score (NaN) do not take part.

    Args:
        scores: higher is better; index the names.
        quantiles: name of a case -> q.

    Returns:
        Index the case; columns `name` and `score`.

    Raises:
        MTLError: no photograph has a score.

    >>> representative_cases(pd.Series({"a": 0.2, "b": 0.9, "c": 0.5, "d": 0.5})).name.tolist()
    ['b', 'c', 'a']
    """
    scores = scores.dropna()
    if scores.empty:
        raise MTLError("no photograph has a score: there is no best, median or worst one")
    ordered = scores.sort_index().sort_values(kind="stable")
    places = {case: int(q * (len(ordered) - 1)) for case, q in quantiles.items()}
    rows = {case: (ordered.index[place], ordered.iloc[place]) for case, place in places.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["name", "score"])


# -------------------------------------------------------------------------------------------------- a leak
def leak_effect(
    clean: pd.Series, paper: pd.Series, leaked: Collection[str], n_bootstrap: int = 2000, seed: int = 0
) -> dict[str, float]:
    """How much of the gain of a leaky protocol is the leak? A difference of differences.

    Two runs differ in more than the leak: under `paper` there are more training photographs, and the test
    photographs chose the checkpoint. But that helps all test photographs; the leak helps only those that were
    seen. So the gain on those is compared with the gain on the others. (It may be too much if the seen ones
    would have gained more anyway.)

    Args:
        clean, paper: a score of each test photograph under each protocol; index the names. Photographs that
            one of them lacks, or has no score for, do not take part.
        leaked: names of photographs that the run of `paper` has seen in training, with any label.

    Returns:
        `gain` over all, `gain_seen`, `gain_unseen`, their difference `seen_minus_unseen`, `from_leak` (that
        difference times the share of seen photographs: what the leak adds to `gain`), each with `/low` and
        `/high`, a 95 % bootstrap interval over photographs; and the numbers of photographs `seen` and
        `unseen`. What has no photographs has no key.
    """
    both = pd.DataFrame({"clean": clean, "paper": paper}).dropna().sort_index()
    gain, seen = (both.paper - both.clean).to_numpy(float), both.index.isin(list(leaked))

    def mean(weights: np.ndarray, which: np.ndarray) -> np.ndarray:
        total = weights @ which
        return np.divide(weights @ (gain * which), total, out=np.full(len(weights), np.nan), where=total > 0)

    def values(weights: np.ndarray) -> dict[str, np.ndarray]:
        on_seen, on_unseen = (mean(weights, which.astype(float)) for which in (seen, ~seen))
        share = weights @ seen / weights.sum(axis=1)
        return {
            "gain": mean(weights, np.ones(len(gain))),
            "gain_seen": on_seen,
            "gain_unseen": on_unseen,
            "seen_minus_unseen": on_seen - on_unseen,
            "from_leak": share * (on_seen - on_unseen),
        }

    found = with_intervals(values, len(both), n_bootstrap, seed) if len(both) else {}
    return {**found, "seen": int(seen.sum()), "unseen": int((~seen).sum())}
