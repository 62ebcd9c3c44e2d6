"""Metrics: how good are the grades, how good are the masks, and what did learning both together bring?

One idea carries the module. A test set is a list of photographs, and every metric is a function of *how
often each photograph counts*. Count each once: that is the metric. Draw N of the N photographs with
replacement, so that some count twice and some not at all, and score again: the spread over many draws is the
95 % bootstrap interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). So each
formula is written once, for `weights` (R, N): R draws of N photographs, and a draw is scored exactly as if it
were the test set. We draw photographs, never pixels: the pixels of one photograph are far from independent.

What the data cannot answer (a grade or a lesion that is absent) has no key in the result: no NaN is returned.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.special import expit
from sklearn.metrics import confusion_matrix, precision_recall_curve

from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import FUSED, LESION_SPACE, RED_YELLOW, LabelSpace, label_space
from mtl_utils.lesions import GRADES

REPORT_SMOOTH = 1e-6  # the report prints none; only a photograph without any mask would notice the value
_DRAWS_AT_ONCE = 250  # bounds the memory of the bootstrap
Values = ArrayLike | torch.Tensor
Weighted = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Metrics as functions of how often each photograph counts: weights (R, N) -> name -> values (R,), NaN where
they are not defined. Give it to `with_intervals`.
"""


# ------------------------------------------------------------------------------------------ the bootstrap
def _draws(n: int, n_bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (R, n): how often each of n photographs was drawn; none where there is no photograph."""
    if not n:
        return
    rng = np.random.default_rng(seed)
    for start in range(0, n_bootstrap, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, n_bootstrap - start)
        yield rng.multinomial(n, np.full(n, 1 / n), size=size).astype(float)


def with_intervals(values: Weighted, n: int, n_bootstrap: int = 0, seed: int = 0) -> dict[str, float]:
    """`values(weights)` of n photographs, each counted once; with n_bootstrap > 0 also as /low and /high, the
    2.5th and 97.5th percentile over as many draws. What is not defined has no key.

    Whoever gives the same n and seed has the same draws: so an interval of a difference is that of pairs.

    >>> heights = np.array([1.0, 2.0, 6.0])
    >>> with_intervals(lambda weights: {"mean": weights @ heights / weights.sum(axis=1)}, 3)
    {'mean': 3.0}
    """
    whole = values(np.ones((1, n)))
    result = {name: float(value[0]) for name, value in whole.items() if np.isfinite(value[0])}
    blocks = [values(weights) for weights in _draws(n, n_bootstrap, seed)]
    for name in list(result) if blocks else []:
        draws = np.concatenate([block[name] for block in blocks])
        draws = draws[np.isfinite(draws)]  # a draw may miss a rare grade or lesion altogether
        if len(draws):
            result[f"{name}/low"], result[f"{name}/high"] = map(float, np.percentile(draws, [2.5, 97.5]))
    return result


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over what is defined, NaN where nothing is (numpy's nanmean would warn)."""
    return _ratio(np.nansum(values, axis), np.isfinite(values).sum(axis))


def _mean_over_photographs(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(R, N), (N,) -> (R,): mean over the photographs whose value is defined."""
    return _ratio(weights @ np.nan_to_num(values, posinf=0, neginf=0), weights @ np.isfinite(values))


# ------------------------------------------------------------------------------------------------ grading
def grading_metrics(
    grades: Values, probabilities: Values, n_bootstrap: int = 0, seed: int = 0
) -> dict[str, float]:
    """Metrics of the grading task; the predicted grade is the most probable one (of equal ones the lowest).

    grades: (N,) integers 0..4. probabilities: (N, 5), each row sums to 1.

    - `grading/accuracy`
    - `grading/balanced_accuracy`: mean recall over the grades that occur
    - `grading/macro_f1`: mean F1 over the grades that occur, in truth or prediction (scikit-learn's rule)
    - `grading/weighted_precision`, `grading/weighted_f1`: means over the grades, each as heavy as it is
      frequent; the accuracy is the recall weighted in the same way
    - `grading/kappa`: Cohen's; `grading/qwk`: with quadratic weights, always on the scale 0..4 (by default
      scikit-learn closes the gap that an absent grade leaves). Left out where everything is one grade.
    - `grading/auc/0` .. `/4`: area under the ROC curve, one grade against the rest; left out for a grade that
      is absent (or the only one). `grading/auc/mean`: mean over those present.
    - with n_bootstrap > 0, each also with `/low` and `/high`: 95 % percentile interval over photographs

    Raises MTLError for a grade outside 0..4 and for probabilities of a wrong shape, NaN, or not summing to 1.

    >>> p = np.array([[.9, .1, 0, 0, 0], [.2, .1, .6, .1, 0], [.5, .1, .4, 0, 0], [.1, 0, .3, .6, 0]])
    >>> result = grading_metrics([0, 2, 2, 3], p)
    >>> result["grading/accuracy"], round(result["grading/qwk"], 3), result["grading/auc/2"]
    (0.75, 0.68, 1.0)
    """
    return with_intervals(grading_values(grades, probabilities), len(grades), n_bootstrap, seed)


def grading_values(grades: Values, probabilities: Values) -> Weighted:
    """`grading_metrics` as a function of how often each photograph counts. Same arguments, same errors."""
    grades, probabilities = _paired(grades, _probabilities(probabilities), "probabilities")
    cells = _cells(grades, probabilities.argmax(axis=1))

    def values(weights: np.ndarray) -> dict[str, np.ndarray]:
        result = _confusion_values((weights @ cells).reshape(-1, len(GRADES), len(GRADES)))
        auc = {grade: _auc(weights, grades == grade, probabilities[:, grade]) for grade in GRADES}
        result |= {f"auc/{grade}": value for grade, value in auc.items()}
        result["auc/mean"] = _mean(np.stack(list(auc.values())), axis=0)
        return {f"grading/{name}": value for name, value in result.items()}

    return values


def confusion(grades: Values, predictions: Values) -> np.ndarray:
    """Confusion matrix (5, 5) of counts: row = true grade, column = predicted grade.

    >>> confusion([0, 2, 2, 3], [0, 2, 0, 3])[2]
    array([1, 0, 1, 0, 0])
    """
    grades, predictions = _paired(grades, _grades(predictions, "predictions"), "predictions")
    return confusion_matrix(grades, predictions, labels=GRADES)


def confusion_interval(
    grades: Values, predictions: Values, n_bootstrap: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval of each count of `confusion`: (low, high), each (5, 5)."""
    cells = _cells(*_paired(grades, _grades(predictions, "predictions"), "predictions"))
    counts = np.concatenate([weights @ cells for weights in _draws(len(cells), n_bootstrap, seed)])
    low, high = np.percentile(counts, [2.5, 97.5], axis=0).reshape(2, len(GRADES), len(GRADES))
    return low, high


def _cells(grades: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """(N, 25): each photograph's cell of the confusion matrix; weights @ cells gives all matrices at once."""
    return np.eye(len(GRADES) ** 2)[grades * len(GRADES) + predictions]


def _confusion_values(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of confusion matrices (R, 5, 5)."""
    true, predicted, total = matrix.sum(2), matrix.sum(1), matrix.sum((1, 2))
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    chance = true[:, :, None] * predicted[:, None, :] / total[:, None, None]  # two graders who never look
    distance = np.abs(np.subtract.outer(GRADES, GRADES))

    def kappa(cost: np.ndarray) -> np.ndarray:  # Cohen 1968: 1 - observed cost / cost by chance
        return 1 - _ratio((cost * matrix).sum((1, 2)), (cost * chance).sum((1, 2)))

    f1 = _ratio(2 * hits, true + predicted)
    # A grade that nobody predicts has no precision: scikit-learn, and with it everybody, counts it as 0.
    precision = np.nan_to_num(_ratio(hits, predicted))

    return {
        "accuracy": _ratio(hits.sum(1), total),
        "weighted_precision": _ratio((true * precision).sum(1), total),
        "weighted_f1": _ratio((true * np.nan_to_num(f1)).sum(1), total),
        "balanced_accuracy": _mean(_ratio(hits, true), axis=1),
        "macro_f1": _mean(f1, axis=1),
        "kappa": kappa(distance > 0),
        "qwk": kappa(distance**2),
    }


def _auc(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """ROC AUC (R,): share of (positive, negative) pairs in the right order; a tie is half (Mann-Whitney)."""
    order = np.argsort(scores)
    starts = np.unique(scores[order], return_index=True)[1]  # equal scores form one group
    positives = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    negatives = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    return _auc_of_histograms(positives, negatives)


def _auc_of_histograms(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """ROC AUC (R,) from how many positives and negatives have each score, (R, scores), the lowest first."""
    pairs = positives * (negatives.cumsum(axis=1) - negatives / 2)
    return _ratio(pairs.sum(1), positives.sum(1) * negatives.sum(1))


def _numpy(values: Values) -> ArrayLike:
    return values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else values


def _grades(values: Values, what: str) -> np.ndarray:
    values = pd.Series(_numpy(values)).to_numpy(dtype=float, na_value=np.nan)  # pandas' Int64 may hold NA
    bad = np.flatnonzero(~np.isin(values, GRADES))
    if len(bad):
        raise MTLError(
            f"{what}[{bad[0]}] is {values[bad[0]]:g}: a grade is one of 0..4 ({len(bad)} of {len(values)} "
            "are not). Leave out photographs whose grade is unknown."
        )
    if not len(values):
        raise MTLError(f"{what} is empty: there is no photograph to score.")
    return values.astype(int)


def _probabilities(values: Values) -> np.ndarray:
    values = np.asarray(_numpy(values), dtype=float)
    if values.ndim != 2 or values.shape[1] != len(GRADES):
        raise MTLError(f"probabilities have shape {values.shape}: expected (photographs, {len(GRADES)}).")
    good = (values >= 0).all(1) & (np.abs(values.sum(1) - 1) < 1e-3)  # NaN compares false: not good
    if not good.all():
        index = int(good.argmin())
        raise MTLError(
            f"probabilities[{index}] is {values[index].round(4).tolist()}: five numbers in [0, 1] that "
            "sum to 1 are needed. Did the logits pass a softmax? Did the training diverge (NaN)?"
        )
    return values


def _paired(grades: Values, other: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    grades = _grades(grades, "grades")
    if len(grades) != len(other):
        raise MTLError(f"{len(grades)} grades but {len(other)} {what}: one of each per photograph is needed.")
    return grades, other


# -------------------------------------------------------------------------------- means over photographs
def mean_metrics(
    photographs: pd.DataFrame, prefix: str, n_bootstrap: int = 0, seed: int = 0
) -> dict[str, float]:
    """Means of what was measured for each photograph: `isr/psnr`, `isr/gain/psnr` of `image_quality.compare`,
    `evidence/auc/MA` of `explain.evidence_agreement`.

    Args:
        photographs: a row each, a column per measure; NaN where a photograph has no answer.
        prefix: of the metrics' names.
        n_bootstrap, seed: with n_bootstrap > 0, each also with `/low` and `/high`. The interval of a gain is
            that of the pairs, and much narrower than those of the two that it is the difference of.

    >>> mean_metrics(pd.DataFrame({"psnr": [40.0, 42.0]}), "isr")
    {'isr/psnr': 41.0}
    """

    def values(weights: np.ndarray) -> dict[str, np.ndarray]:
        columns = photographs.astype(float).items()
        return {
            f"{prefix}/{name}": _mean_over_photographs(weights, column.to_numpy()) for name, column in columns
        }

    return with_intervals(values, len(photographs), n_bootstrap, seed)


# ------------------------------------------------------------------------------------------- segmentation
LOGIT_END = 16  # in float32 the next scores are 0 and 1
FINE, PACKED = 64, 16
"""Parts of one unit of the logit: in `SegmentationMetrics`, and packed into a record."""


def score_edges(steps: int) -> np.ndarray:
    """Where the scores of pixels are parted: at every hundredth, for thresholds, and at `steps` places to the
    unit of the logit, from -16 to 16.

    Why the logit, ln(p / (1 - p))? A network that learned by Dice is sure of nearly everything. Most of its
    scores lie within a thousandth of 0 and 1, and there equal parts of [0, 1] see no difference between them.

    >>> score_edges(1).round(3)[:9]
    array([0.   , 0.   , 0.   , 0.   , 0.   , 0.   , 0.   , 0.   , 0.001])
    >>> len(score_edges(0))  # hundredths only
    99
    """
    logits = np.arange(1 - LOGIT_END * steps, LOGIT_END * steps) / steps if steps else np.empty(0)
    return np.unique(np.concatenate([np.arange(1, 100) / 100, expit(logits)]))


class SegmentationMetrics:
    """Metrics of the lesion masks, collected batch by batch.

    Keeps two small histograms per photograph and lesion: how many pixels of the lesion, and how many others,
    have a score in each of the parts of `score_edges`. All metrics follow from them. Scores in one part count
    as equal: AUPR is scikit-learn's `average_precision_score` of the scores rounded down to an edge. Dice and
    IoU are exact at a threshold that is an edge.

    >>> masks = torch.zeros(1, 5, 4, 4); masks[0, 2, :2] = 1             # 8 pixels of hard exudates (EX);
    >>> scores = torch.full((1, 5, 4, 4), 0.1); scores[0, 2, 1:3] = 0.9  # 8 predicted, 4 of them right
    >>> metrics = SegmentationMetrics()
    >>> metrics.update(scores, masks)
    >>> result = metrics.compute()
    >>> result["segmentation/dice/EX"], round(result["segmentation/iou/EX"], 3)
    (0.5, 0.333)
    """

    def __init__(self, steps: int = FINE, space: LabelSpace = LESION_SPACE) -> None:
        """steps: see `score_edges`. space: what is marked, and which are lesions."""
        if steps < 0:
            raise MTLError(f"steps is {steps}: give 0 (hundredths only) or more.")
        self.steps = steps
        self.lowest = np.concatenate([[0], score_edges(steps)])  # score of each part
        self.space = space
        self._photographs: list[np.ndarray] = []

    def update(self, probabilities: Values, masks: Values) -> None:
        """Add photographs. probabilities: (B, C, H, W) in [0, 1]; masks: the same shape, 0 or 1; any device.

        Channels as in `space.marked`, by default LESIONS. Pass only photographs that have masks: an empty
        mask says 'no lesion here'.
        Raises MTLError, and adds nothing, for another shape, NaN, a score outside [0, 1], a mask not 0 or 1.
        """
        probabilities = _tensor(probabilities)
        masks = _tensor(masks).to(probabilities.device)
        shape = tuple(probabilities.shape)
        if len(shape) != 4 or shape[1] != len(self.space.marked) or tuple(masks.shape) != shape:
            raise MTLError(
                f"probabilities have shape {shape} and masks {tuple(masks.shape)}: both must be "
                f"(photographs, {len(self.space.marked)}, height, width)."
            )
        in_range = (probabilities >= 0) & (probabilities <= 1)
        self._check(in_range, probabilities, "a score lies in [0, 1]. Did the logits pass a sigmoid?")
        self._check((masks == 0) | (masks == 1), masks, "a mask holds 0 and 1. Divide 0 and 255 by 255.")
        if probabilities.dtype != torch.float64:
            probabilities = probabilities.float()
        channels = len(self.space.marked)
        rows = torch.arange(0, 2 * channels, 2, dtype=torch.int32, device=masks.device).view(-1, 1, 1)
        edges = torch.from_numpy(self.lowest[1:]).to(probabilities)
        n_bins = len(self.lowest)
        for scores, mask in zip(probabilities, masks, strict=True):  # one at a time bounds the memory
            bins = torch.bucketize(scores.contiguous(), edges, out_int32=True, right=True)
            index = (rows + mask.int()) * n_bins + bins
            counts = torch.bincount(index.flatten(), minlength=2 * channels * n_bins)
            self._photographs.append(counts.cpu().numpy().reshape(channels, 2, n_bins))

    def _check(self, good: torch.Tensor, values: torch.Tensor, remedy: str) -> None:
        if not good.all():
            where = tuple((~good).nonzero()[0].tolist())
            raise MTLError(
                f"photograph {len(self) + where[0]}, lesion {self.space.marked[where[1]]}, "
                f"pixel {where[2:]} has the value {values[where].item():g}: {remedy}"
            )

    def __len__(self) -> int:
        """Photographs seen."""
        return len(self._photographs)

    def pack(self, steps: int = PACKED) -> dict[str, object]:
        """All photographs as text, some kilobytes each, from which `unpack` scores them again.

        Args:
            steps: of the packed histograms' `score_edges`, a divisor of the collected ones'. Dice and IoU
                stay exact at hundredths; AUPR loses what lies between the edges, with 16 steps some
                thousandths.

        Returns:
            `space`, `steps`, `shape` (photographs, marks, 2, parts) and `counts`: 32-bit, deflated, base64.

        Raises MTLError where `steps` does not divide.
        """
        if steps and (steps < 0 or steps > self.steps or self.steps % steps):
            raise MTLError(f"cannot pack {self.steps} steps into {steps}: give a divisor, or 0")
        starts = np.searchsorted(self.lowest, [0, *score_edges(steps)])
        counts = np.add.reduceat(self._histograms(), starts, axis=-1).astype("<u4")
        text = base64.b64encode(zlib.compress(counts.tobytes(), 9)).decode()
        return {"space": self.space.name, "steps": steps, "shape": list(counts.shape), "counts": text}

    @classmethod
    def unpack(cls, packed: Mapping[str, object]) -> SegmentationMetrics:
        """The photographs of `pack`, in the same order. Without `steps`, as records had it until November
        2026, the parts are hundredths.
        """
        counts = np.frombuffer(zlib.decompress(base64.b64decode(packed["counts"])), "<u4")
        metrics = cls(packed.get("steps", 0), label_space(packed["space"]))
        metrics._photographs = [*counts.reshape(packed["shape"]).astype(np.int64)]
        return metrics

    def merge(self, other: SegmentationMetrics) -> SegmentationMetrics:
        """Append the photographs of another process; returns self."""
        if (self.steps, self.space) != (other.steps, other.space):
            raise MTLError(
                f"cannot merge metrics of {self.steps} and of {other.steps} steps, "
                f"or of the label spaces {self.space.name} and {other.space.name}."
            )
        self._photographs += other._photographs
        return self

    def compute(self, n_bootstrap: int = 0, seed: int = 0, threshold: float = 0.5) -> dict[str, float]:
        """All metrics; a pixel is predicted where its score >= threshold.

        - `segmentation/dice/MA`, `iou/MA`, `aupr/MA`, `auc/MA` (area under the ROC curve) ..: pooled, over
          all pixels of all photographs.
        - `segmentation/image/dice/MA`, `image/iou/MA` ..: mean over the photographs that have the lesion.
          Without it Dice is 0 for one false pixel and undefined for a perfect answer; so the others are left
          out, and `segmentation/image/false_alarm/MA` is the share of them with any predicted pixel.
        - `.../mean` over MA, HE, EX, SE (red and yellow); `.../mean_with_disc` over all that is marked. A
          lesion that the whole set lacks has no key and is left out of the means.
        - `segmentation/with_background/dice/MA`, `with_background/iou/MA` ..: mean of the lesion's score and
          that of all pixels without it, pooled: of fused lesions one reading of PLDMLT's mDice and mIoU.
        - `segmentation/pixel_accuracy/MA` ..: share of all pixels that are right, another reading (of its
          Table 2). Both also as `/mean`.
        - `segmentation/report_dice`: the shared-encoder report's own Dice. Threshold 0.5; per photograph
          (2 |P and T| + s) / (|P| + |T| + s), all channels (disc included) counted together,
          s = REPORT_SMOOTH; then the mean over photographs. The disc, by far the largest, dominates it.
        - with n_bootstrap > 0, each also with `/low` and `/high`: 95 % percentile interval over photographs

        Raises MTLError before the first photograph, and for a threshold that is not a hundredth.
        """
        return with_intervals(self.values(threshold), len(self), n_bootstrap, seed)

    def values(self, threshold: float = 0.5) -> Weighted:
        """`compute` as a function of how often each photograph counts. Same errors."""
        histograms = self._histograms().astype(float)
        hits, predicted, true = self._areas(threshold)
        present = true > 0
        photograph = {
            "dice": np.where(present, _ratio(2 * hits, predicted + true), np.nan),
            "iou": np.where(present, _ratio(hits, predicted + true - hits), np.nan),
            "false_alarm": np.where(present, np.nan, predicted > 0),
        }
        report = self._report_dice()

        def values(weights: np.ndarray) -> dict[str, np.ndarray]:
            result = {}
            for k, lesion in enumerate(self.space.marked):
                h, p, t = (weights @ areas[:, k] for areas in (hits, predicted, true))
                result[f"dice/{lesion}"] = np.where(t > 0, _ratio(2 * h, p + t), np.nan)
                result[f"iou/{lesion}"] = np.where(t > 0, _ratio(h, p + t - h), np.nan)
                negatives, positives = (weights @ histograms[:, k, truth] for truth in (0, 1))
                result[f"aupr/{lesion}"] = _average_precision(positives, negatives)
                result[f"auc/{lesion}"] = _auc_of_histograms(positives, negatives)
                # The background's own areas: what is left of all pixels.
                everything = negatives.sum(1) + positives.sum(1)
                other_hits = everything - p - t + h
                other_dice = _ratio(2 * other_hits, 2 * everything - p - t)
                other_iou = _ratio(other_hits, everything - h)
                result[f"with_background/dice/{lesion}"] = (result[f"dice/{lesion}"] + other_dice) / 2
                result[f"with_background/iou/{lesion}"] = (result[f"iou/{lesion}"] + other_iou) / 2
                right = _ratio(h + other_hits, everything)
                result[f"pixel_accuracy/{lesion}"] = np.where(t > 0, right, np.nan)
                for name, value in photograph.items():
                    result[f"image/{name}/{lesion}"] = _mean_over_photographs(weights, value[:, k])
            for kind in ("dice", "iou", "aupr", "auc", "image/dice", "image/iou"):
                for name, lesions in (("mean", self.space.disease), ("mean_with_disc", self.space.marked)):
                    each = np.stack([result[f"{kind}/{lesion}"] for lesion in lesions])
                    result[f"{kind}/{name}"] = _mean(each, axis=0)
            for kind in ("with_background/dice", "with_background/iou", "pixel_accuracy"):
                each = np.stack([result[f"{kind}/{lesion}"] for lesion in self.space.disease])
                result[f"{kind}/mean"] = _mean(each, axis=0)
            result["report_dice"] = _mean_over_photographs(weights, report)
            return {f"segmentation/{name}": value for name, value in result.items()}

        return values

    def per_photograph(self, threshold: float = 0.5) -> pd.DataFrame:
        """One row per photograph, in the order seen: Dice per lesion (NaN where absent) and `report_dice`."""
        hits, predicted, true = self._areas(threshold)
        dice = np.where(true > 0, _ratio(2 * hits, predicted + true), np.nan)
        return pd.DataFrame(dice, columns=list(self.space.marked)).assign(report_dice=self._report_dice())

    def curve(self, lesion: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pooled precision (T+1,), recall (T+1,), thresholds (T,), as sklearn's `precision_recall_curve`.

        Raises MTLError for an unknown lesion and for one that no photograph shows.
        """
        if lesion not in self.space.marked:
            raise MTLError(f"unknown lesion {lesion!r}: one of {', '.join(self.space.marked)}.")
        counts = self._histograms()[:, self.space.marked.index(lesion)].sum(axis=0)
        if not counts[1].any():
            raise MTLError(f"no photograph shows {lesion}: its precision-recall curve is not defined.")
        truth, bins = counts.nonzero()
        return precision_recall_curve(truth, self.lowest[bins], sample_weight=counts[truth, bins])

    def _histograms(self) -> np.ndarray:
        """(photographs, lesions, [other, lesion], bins): numbers of pixels."""
        if not self._photographs:
            raise MTLError("no photograph to score: call update(probabilities, masks) first.")
        return np.stack(self._photographs)

    def _areas(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels per photograph and lesion, each (N, C): |P and T|, |P|, |T| of prediction P and truth T."""
        part = int(np.abs(self.lowest - threshold).argmin())
        if not np.isclose(self.lowest[part], threshold, rtol=1e-9, atol=1e-12):
            raise MTLError(f"threshold {threshold} is not a hundredth in [0, 1): round it.")
        histograms = self._histograms()
        above = histograms[..., part:].sum(-1)
        return above[..., 1], above.sum(-1), histograms[:, :, 1].sum(-1)

    def _report_dice(self) -> np.ndarray:
        hits, predicted, true = (areas.sum(axis=1) for areas in self._areas(0.5))
        return (2 * hits + REPORT_SMOOTH) / (predicted + true + REPORT_SMOOTH)


def _tensor(values: Values) -> torch.Tensor:
    # torch.tensor copies; as_tensor would warn about the read-only arrays of a memory-mapped working copy
    return values.detach() if isinstance(values, torch.Tensor) else torch.tensor(np.asarray(values))


def _average_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """(R, bins) twice, scores rising -> (R,): sum over the thresholds of (recall gained) x precision."""
    positives, negatives = positives[:, ::-1], negatives[:, ::-1]
    hits = positives.cumsum(axis=1)
    precision = _ratio(hits, hits + negatives.cumsum(axis=1))
    return _ratio(np.nansum(positives * precision, axis=1), hits[:, -1])


def every_papers_score(probabilities: Values, masks: Values) -> pd.DataFrame:
    """One prediction, scored as we read each of the papers. (MTUnet and DeepMT-DR do not say whether theirs
    are pooled or means over photographs.)

    Args:
        probabilities: of the five `LESIONS`, float (N, 5, H, W) in [0, 1].
        masks: 0 or 1, the same shape.

    Returns:
        A row per score: `paper`, `score` (what is averaged over what), `value`. A score of a lesion that no
        photograph shows is left out.
    """
    found: dict[str, float] = {}
    for space in (LESION_SPACE, RED_YELLOW, FUSED):
        metrics = SegmentationMetrics(space=space)
        for pair in zip(np.asarray(_tensor(probabilities)), np.asarray(_tensor(masks)), strict=True):
            metrics.update(*(space.group(layers)[None] for layers in pair))
        found |= {f"{space.name}:{name}": value for name, value in metrics.compute().items()}
    rows = [(paper, score, found[key]) for paper, score, key in _SCORES_OF_PAPERS if key in found]
    return pd.DataFrame(rows, columns=["paper", "score", "value"])


_SCORES_OF_PAPERS = (
    ("shared-encoder report", "Dice of all five channels at once, mean over photographs",
     "lesions:segmentation/report_dice"),
    ("MTUnet", "Dice of red lesions, pooled", "red-yellow:segmentation/dice/red"),
    ("MTUnet", "Dice of yellow lesions, pooled", "red-yellow:segmentation/dice/yellow"),
    ("PLDMLT", "Dice of the fused lesions, without background", "fused:segmentation/dice/lesion"),
    ("PLDMLT", "mDice: mean of fused lesions and background",
     "fused:segmentation/with_background/dice/lesion"),
    ("PLDMLT", "mIoU: mean of fused lesions and background",
     "fused:segmentation/with_background/iou/lesion"),
    ("PLDMLT", "all pixels of both classes together", "fused:segmentation/pixel_accuracy/lesion"),
    ("DeepMT-DR, IDRiD challenge", "AUPR of MA, pooled", "lesions:segmentation/aupr/MA"),
    ("DeepMT-DR, IDRiD challenge", "AUPR of HE, pooled", "lesions:segmentation/aupr/HE"),
    ("DeepMT-DR, IDRiD challenge", "AUPR of EX, pooled", "lesions:segmentation/aupr/EX"),
    ("DeepMT-DR, IDRiD challenge", "AUPR of SE, pooled", "lesions:segmentation/aupr/SE"),
    ("this course", "Dice, mean of MA, HE, EX and SE, pooled", "lesions:segmentation/dice/mean"),
)  # fmt: skip


# --------------------------------------------------------------------------------------- multi-task gain
def delta_mtl(
    multi: Mapping[str, float],
    single: Mapping[str, float],
    higher_is_better: Mapping[str, bool] | None = None,
) -> float:
    """Delta_MTL in percent: mean over the tasks of the relative change against the single-task model.

    100 / T * sum_i s_i (M_i - B_i) / B_i, where M is the multi-task and B the single-task metric, s_i = +1
    where higher is better and -1 where lower is. Vandenhende et al., Multi-Task Learning for Dense Prediction
    Tasks: A Survey (TPAMI 2021), evaluation criterion. Give one metric per task: two count it twice.

    higher_is_better: {"loss": False}; what it does not name is better when higher.
    Raises MTLError where the tasks differ, or a single-task metric is not above 0 (no relative change then).

    The report's Table 2, accuracy and Dice:

    >>> round(delta_mtl({"accuracy": 62.14, "dice": 0.7029}, {"accuracy": 60.19, "dice": 0.6806}), 2)
    3.26
    """
    higher_is_better = higher_is_better or {}
    if not multi or set(multi) != set(single) or not set(higher_is_better) <= set(multi):
        raise MTLError(
            f"delta_mtl needs the same tasks on both sides: multi has {sorted(multi)}, single "
            f"{sorted(single)}, higher_is_better {sorted(higher_is_better)}."
        )
    changes = []
    for task, base in single.items():
        if not (np.isfinite(multi[task]) and np.isfinite(base) and base > 0):
            raise MTLError(
                f"delta_mtl: {task} is {multi[task]} against {base}: both must be finite, "
                "and the single-task value above 0."
            )
        sign = 1 if higher_is_better.get(task, True) else -1
        changes.append(sign * (multi[task] - base) / base)
    return 100 * float(np.mean(changes))
