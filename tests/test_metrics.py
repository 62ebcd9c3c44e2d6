"""Metrics against scikit-learn, torchmetrics and numbers worked by hand."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_average_precision, binary_jaccard_index

from mtl_utils import metrics as module
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import FUSED, LESION_SPACE, RED_YELLOW
from mtl_utils.lesions import DISEASE_LESIONS, GRADES, LESIONS
from mtl_utils.metrics import (
    FINE,
    PACKED,
    REPORT_SMOOTH,
    SegmentationMetrics,
    confusion,
    confusion_interval,
    delta_mtl,
    every_papers_score,
    grading_metrics,
    mean_metrics,
    score_edges,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def draw_grading(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grades with all five present, and probabilities that know a little; rounded, so that ties occur."""
    rng = np.random.default_rng(seed)
    grades = np.concatenate([GRADES, rng.choice(5, size=n - 5, p=[0.33, 0.05, 0.31, 0.18, 0.13])])
    scores = np.exp(rng.normal(size=(n, 5)) + 1.2 * np.eye(5)[grades]).round(1) + 0.1
    return grades, scores / scores.sum(1, keepdims=True)


def sure(predictions: list[int]) -> np.ndarray:
    return np.eye(5)[predictions]


def sklearn_grading(grades: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    predictions = probabilities.argmax(1)
    auc = {
        grade: sk.roc_auc_score(grades == grade, probabilities[:, grade])
        for grade in GRADES
        if 0 < (grades == grade).sum() < len(grades)
    }
    present = list(np.unique(grades))
    return {
        "grading/accuracy": sk.accuracy_score(grades, predictions),
        "grading/balanced_accuracy": sk.recall_score(grades, predictions, labels=present, average="macro"),
        "grading/macro_f1": sk.f1_score(grades, predictions, average="macro"),
        "grading/weighted_precision": sk.precision_score(
            grades, predictions, average="weighted", zero_division=0
        ),
        "grading/weighted_f1": sk.f1_score(grades, predictions, average="weighted"),
        "grading/kappa": sk.cohen_kappa_score(grades, predictions, labels=GRADES),
        "grading/qwk": sk.cohen_kappa_score(grades, predictions, labels=GRADES, weights="quadratic"),
        **{f"grading/auc/{grade}": value for grade, value in auc.items()},
        "grading/auc/mean": np.mean(list(auc.values())),
    }


# ------------------------------------------------------------------------------------------------ grading
@pytest.mark.parametrize("seed", range(5))
def test_grading_agrees_with_sklearn(seed):
    grades, probabilities = draw_grading(103, seed)
    expected = sklearn_grading(grades, probabilities)
    assert grading_metrics(grades, probabilities) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from(GRADES), st.sampled_from(GRADES)), min_size=2, max_size=12))
@settings(deadline=None, max_examples=60)
def test_grading_of_any_small_set_agrees_with_sklearn(pairs):
    grades, predictions = np.array(pairs).T
    result = grading_metrics(grades, sure(predictions))
    assert all(np.isfinite(value) for value in result.values())
    if len(set(grades)) > 1:  # otherwise kappa or AUC is not defined, see below
        assert result == pytest.approx(sklearn_grading(grades, sure(predictions)), abs=1e-12)


def test_grading_by_hand():
    # truth 0 2 2 3, prediction 0 2 0 3: 3 of 4 right; recalls 1, 1/2, 1 -> 5/6.
    # F1: grade 0 2*1/(1+2) = 2/3, grade 2 2*1/(2+1) = 2/3, grade 3 1 -> 7/9.
    # kappa: agreement 3/4, by chance (1*2 + 2*1 + 1*1)/16 = 5/16 -> (12-5)/(16-5) = 7/11.
    # qwk: squared distance observed (2-0)^2 = 4; by chance, the 16 pairs / 4: (13 + 2*9 + 19)/4; 1 - 4/12.5.
    result = grading_metrics([0, 2, 2, 3], sure([0, 2, 0, 3]))
    assert result["grading/accuracy"] == 0.75
    assert result["grading/balanced_accuracy"] == pytest.approx(5 / 6)
    assert result["grading/macro_f1"] == pytest.approx(7 / 9)
    assert result["grading/weighted_f1"] == pytest.approx((2 / 3 + 2 * 2 / 3 + 1) / 4)
    # precision: grade 0 1/2, grade 2 1, grade 3 1
    assert result["grading/weighted_precision"] == pytest.approx((1 / 2 + 2 * 1 + 1) / 4)
    assert result["grading/kappa"] == pytest.approx(7 / 11)
    assert result["grading/qwk"] == pytest.approx(0.68)


def test_qwk_keeps_the_distance_over_an_absent_grade():
    # Grades 2 and 3 are absent. scikit-learn without labels would take 4 as the neighbour of 1.
    grades, predictions = [0, 0, 1, 4, 4], [0, 4, 1, 4, 1]
    result = grading_metrics(grades, sure(predictions))["grading/qwk"]
    # observed 4^2 + 3^2 = 25; by chance (2*(0+16+1+16+1) + (1+9+0+9+0) + 2*(16+0+9+0+9))/5 = 31 -> 6/31
    assert result == pytest.approx(1 - 25 / 31)
    assert result != pytest.approx(sk.cohen_kappa_score(grades, predictions, weights="quadratic"))


def test_auc_counts_a_tie_half():
    # grade 0: positives .8 .5, negatives .5 .1: pairs .8>.5, .8>.1, .5=.5 (half), .5>.1 -> 3.5 of 4
    p = np.array([[0.8, 0.2], [0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    assert grading_metrics([0, 0, 1, 1], np.pad(p, ((0, 0), (0, 3))))["grading/auc/0"] == 3.5 / 4


def test_absent_grade_has_no_auc_and_one_grade_has_no_kappa():
    result = grading_metrics([0, 0, 2], sure([0, 2, 2]))
    assert {name for name in result if "auc" in name} == {f"grading/auc/{k}" for k in (0, 2, "mean")}
    assert result["grading/auc/mean"] == 0.75  # each: half of the pairs right, half tied
    one = grading_metrics([3, 3], sure([3, 3]), n_bootstrap=20)
    assert {name for name in one if name.count("/") == 1} == {
        "grading/accuracy", "grading/balanced_accuracy", "grading/macro_f1",
        "grading/weighted_precision", "grading/weighted_f1",
    }  # fmt: skip
    assert set(one.values()) == {1.0}


def test_each_draw_is_scored_as_if_it_were_the_test_set(monkeypatch):
    # One given draw instead of a random one: both ends of the interval are then its metrics.
    grades, probabilities = draw_grading(40)
    counts = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40))
    monkeypatch.setattr(module, "_draws", lambda *_: [counts[None].astype(float)])
    result = grading_metrics(grades, probabilities, n_bootstrap=1)
    expected = sklearn_grading(np.repeat(grades, counts), np.repeat(probabilities, counts, axis=0))
    assert expected == pytest.approx({name: result[f"{name}/low"] for name in expected}, abs=1e-12)
    assert expected == pytest.approx({name: result[f"{name}/high"] for name in expected}, abs=1e-12)


def test_interval_of_accuracy_is_the_binomial_one():
    # 70 of 100 right: a draw's accuracy is binomial(100, 0.7) / 100; 2.5 and 97.5 % points 0.61 and 0.79.
    truth, prediction = [0] * 50 + [1] * 50, [0] * 80 + [1] * 20
    result = grading_metrics(truth, sure(prediction), n_bootstrap=4000)
    assert result["grading/accuracy/low"] == pytest.approx(0.61, abs=0.011)
    assert result["grading/accuracy/high"] == pytest.approx(0.79, abs=0.011)


def test_grading_bootstrap_is_fast_repeatable_and_leaves_the_values_alone():
    grades, probabilities = draw_grading(103)
    start = time.perf_counter()
    result = grading_metrics(grades, probabilities, n_bootstrap=1000, seed=3)
    assert time.perf_counter() - start < 3
    plain = grading_metrics(grades, probabilities)
    assert {name: result[name] for name in plain} == plain
    assert len(result) == 3 * len(plain) == 3 * 13
    assert all(result[f"{name}/low"] <= plain[name] <= result[f"{name}/high"] for name in plain)
    assert result == grading_metrics(grades, probabilities, n_bootstrap=1000, seed=3)
    assert result != grading_metrics(grades, probabilities, n_bootstrap=1000, seed=4)


@pytest.mark.parametrize("device", DEVICES)
def test_grading_takes_tensors_and_pandas(device):
    grades, probabilities = draw_grading(30)
    expected = grading_metrics(grades, probabilities)
    on_device = torch.tensor(probabilities, device=device, requires_grad=True)
    assert grading_metrics(torch.tensor(grades, device=device), on_device) == expected
    assert grading_metrics(pd.Series(grades, dtype="Int64", index=range(30, 60)), probabilities) == expected


@pytest.mark.parametrize(
    ("grades", "probabilities", "message"),
    [
        ([0, 5, 1], sure([0, 1, 2]), r"grades\[1\] is 5"),
        ([0, 1, -1], sure([0, 1, 2]), r"grades\[2\] is -1.*unknown"),
        ([0, 1.5], sure([0, 1]), r"grades\[1\] is 1.5"),
        (pd.Series([0, None], dtype="Int64"), sure([0, 1]), r"grades\[1\] is nan"),
        ([], np.zeros((0, 5)), "no photograph"),
        ([0, 1], sure([0, 1, 2]), "2 grades but 3 probabilities"),
        ([0, 1], np.full((2, 4), 0.25), r"shape \(2, 4\)"),
        ([0], np.full(5, 0.2), r"shape \(5,\)"),
        ([0, 1], sure([0, 1]) * [[1], [2]], r"probabilities\[1\].*sum to 1"),
        ([0, 1], np.array([[1, 0, 0, 0, 0], [1.5, -0.5, 0, 0, 0]]), r"probabilities\[1\].*softmax"),
        ([0, 1], np.array([[np.nan] * 5, [0.2] * 5]), r"probabilities\[0\].*NaN"),
    ],
)
def test_grading_names_what_is_wrong(grades, probabilities, message):
    with pytest.raises(MTLError, match=message):
        grading_metrics(grades, probabilities)


def test_confusion_has_truth_in_rows_and_all_grades():
    matrix = confusion([0, 2, 2, 3], torch.tensor([0, 2, 0, 3]))
    expected = np.zeros((5, 5), int)
    expected[0, 0] = expected[2, 2] = expected[2, 0] = expected[3, 3] = 1
    assert matrix.dtype.kind == "i" and (matrix == expected).all()
    with pytest.raises(MTLError, match=r"predictions\[0\] is 7"):
        confusion([0], [7])
    with pytest.raises(MTLError, match="1 grades but 2 predictions"):
        confusion([0], [0, 1])


def test_confusion_interval_of_one_cell_is_the_binomial_one():
    # 40 of 100 photographs lie in cell (1, 2): binomial(100, 0.4), 2.5 and 97.5 % points 31 and 50, +-1.
    low, high = confusion_interval([1] * 40 + [3] * 60, [2] * 40 + [3] * 60, n_bootstrap=3000)
    assert low.shape == high.shape == (5, 5)
    assert low[1, 2] == pytest.approx(31, abs=1) and high[1, 2] == pytest.approx(50, abs=1)
    assert (low <= high).all() and low.sum() == low[1, 2] + low[3, 3] and high[0].sum() == 0


# ------------------------------------------------------------------------------------------- segmentation
def draw_masks(n: int = 4, size: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that know something of the masks, and the masks; photograph 0 has no SE, photograph 1 no MA."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor([0.02, 0.08, 0.1, 0.05, 0.3]).view(1, 5, 1, 1)
    masks = (torch.rand(n, 5, size, size, generator=generator) < share).float()
    masks[0, LESIONS.index("SE")] = 0
    masks[1, LESIONS.index("MA")] = 0
    return torch.sigmoid(1.2 * torch.randn(masks.shape, generator=generator) - 2 + 2.5 * masks), masks


def collect(scores, masks, batch: int = 2, **settings) -> SegmentationMetrics:
    metrics = SegmentationMetrics(**settings)
    for start in range(0, len(scores), batch):
        metrics.update(scores[start : start + batch], masks[start : start + batch])
    return metrics


def reference(scores: torch.Tensor, masks: torch.Tensor, threshold: float = 0.5) -> dict[str, float]:
    """Every segmentation metric, by scikit-learn and from the pixels."""
    result = {}
    for k, lesion in enumerate(LESIONS):
        truth, score = masks[:, k].flatten(1).numpy() == 1, scores[:, k].flatten(1).double().numpy()
        predicted, present = score >= threshold, truth.any(1)
        if not present.all():
            result[f"image/false_alarm/{lesion}"] = predicted[~present].any(1).mean()
        if present.any():
            result[f"dice/{lesion}"] = sk.f1_score(truth.ravel(), predicted.ravel())
            result[f"iou/{lesion}"] = sk.jaccard_score(truth.ravel(), predicted.ravel())
            for name, metric in (("dice", sk.f1_score), ("iou", sk.jaccard_score)):
                both = metric(truth.ravel(), predicted.ravel(), average="macro")
                result[f"with_background/{name}/{lesion}"] = both
            result[f"pixel_accuracy/{lesion}"] = sk.accuracy_score(truth.ravel(), predicted.ravel())
            down = np.searchsorted(score_edges(FINE), score.ravel(), side="right")
            result[f"aupr/{lesion}"] = sk.average_precision_score(truth.ravel(), down)
            result[f"auc/{lesion}"] = sk.roc_auc_score(truth.ravel(), down)
            for name, metric in (("dice", sk.f1_score), ("iou", sk.jaccard_score)):
                each = [metric(t, p) for t, p in zip(truth[present], predicted[present])]
                result[f"image/{name}/{lesion}"] = np.mean(each)
    for kind in ("dice", "iou", "aupr", "auc", "image/dice", "image/iou"):
        for name, lesions in (("mean", DISEASE_LESIONS), ("mean_with_disc", LESIONS)):
            present = [result[f"{kind}/{lesion}"] for lesion in lesions if f"{kind}/{lesion}" in result]
            if present:
                result[f"{kind}/{name}"] = np.mean(present)
    for kind in ("with_background/dice", "with_background/iou", "pixel_accuracy"):
        result[f"{kind}/mean"] = np.mean([result[f"{kind}/{lesion}"] for lesion in DISEASE_LESIONS])
    flat = masks.flatten(1).numpy(), (scores.double() >= 0.5).flatten(1).numpy()
    result["report_dice"] = np.mean([sk.f1_score(t, p, zero_division=1) for t, p in zip(*flat)])
    return {f"segmentation/{name}": value for name, value in result.items()}


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.02])
def test_segmentation_agrees_with_sklearn(threshold):
    scores, masks = draw_masks()
    result = collect(scores.double(), masks).compute(threshold=threshold)
    assert result == pytest.approx(reference(scores.double(), masks, threshold), abs=1e-6)
    assert len(result) == 45 + 2 + 15 + 1  # kinds x lesions, false alarms, means, the report's


@pytest.mark.parametrize("sure", [1, 4])
def test_aupr_is_that_of_the_pixels_by_torchmetrics(sure):
    """Also of a network that is sure of everything, whose scores lie within thousandths of 0 and 1."""
    scores, masks = draw_masks(seed=5)
    scores = torch.special.expit(sure * torch.logit(scores, eps=1e-3))
    result = collect(scores, masks).compute()
    for k, lesion in enumerate(LESIONS):
        score, truth = scores[:, k].flatten(), masks[:, k].flatten().int()
        exact = binary_average_precision(score, truth).item()
        assert result[f"segmentation/aupr/{lesion}"] == pytest.approx(exact, abs=0.003)
        by_sklearn = sk.roc_auc_score(truth.numpy(), score.numpy())
        assert result[f"segmentation/auc/{lesion}"] == pytest.approx(by_sklearn, abs=0.003)
        iou = binary_jaccard_index(score, truth).item()
        assert result[f"segmentation/iou/{lesion}"] == pytest.approx(iou, abs=1e-6)
    by_hundredths = collect(scores, masks, steps=0).compute()
    lost = result["segmentation/aupr/mean"] - by_hundredths["segmentation/aupr/mean"]
    assert lost > 0.05 if sure > 1 else abs(lost) < 0.02


def test_edges_are_hundredths_and_steps_of_the_logit():
    assert score_edges(0) == pytest.approx(np.arange(1, 100) / 100)
    half = score_edges(2)
    assert len(half) == 99 + 63 - 1  # 0.5 is both
    for logit in (-15.5, -3, 0.5, 15.5):
        assert np.abs(half - 1 / (1 + np.exp(-logit))).min() < 1e-15
    assert np.isin(score_edges(PACKED), score_edges(FINE)).all() and np.isin(0.5, half)


def lone(pixels: dict[str, list[float]], truth: dict[str, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """One photograph of 1 x 4 pixels from rows by lesion; what is not named is 0."""
    rows = [[source.get(lesion, [0] * 4) for lesion in LESIONS] for source in (pixels, truth)]
    return tuple(np.array(row, dtype=float).reshape(1, 5, 1, 4) for row in rows)


def test_segmentation_by_hand():
    metrics = SegmentationMetrics()
    disc = [1, 1, 1, 1]
    # EX: 2 predicted, 1 right, truth 2; OD: 4 predicted, 4 right
    metrics.update(*lone({"EX": [0.9, 0.6, 0.2, 0.1], "OD": disc}, {"EX": [1, 0, 1, 0], "OD": disc}))
    # EX: absent, 1 false pixel; OD: 1 predicted, 1 right, truth 3
    metrics.update(*lone({"EX": [0.7, 0, 0, 0], "OD": [0.5, 0.49, 0, 0]}, {"OD": [1, 1, 1, 0]}))
    result = metrics.compute()
    assert result == pytest.approx({
        "segmentation/dice/EX": 2 * 1 / (3 + 2),  # pooled: 3 predicted, 2 true, 1 right
        "segmentation/iou/EX": 1 / 4,
        # scores falling .9+ .7- .6- .2+: precision at the hits 1/1 and 2/4, recall gained 1/2 each
        "segmentation/aupr/EX": 0.5 * 1 + 0.5 * 0.5,
        "segmentation/auc/EX": 10 / 12,  # .9 beats all six others, .2 four of them
        "segmentation/image/dice/EX": 0.5,  # the first photograph alone has exudates: 2*1/(2+2)
        "segmentation/image/iou/EX": 1 / 3,
        "segmentation/image/false_alarm/EX": 1.0,
        "segmentation/dice/OD": 2 * 5 / (5 + 7),
        "segmentation/iou/OD": 5 / 7,
        # 1.0: 4+, .5: 1+, .49: 1+, 0: 1+ and 1-: recall 6/7 at precision 1, then 1/7 at 7/8
        "segmentation/aupr/OD": 6 / 7 + 1 / 7 * 7 / 8,
        "segmentation/auc/OD": 6.5 / 7,
        "segmentation/image/dice/OD": (1 + 2 * 1 / (1 + 3)) / 2,
        "segmentation/image/iou/OD": (1 + 1 / 3) / 2,
        **{f"segmentation/image/false_alarm/{lesion}": 0.0 for lesion in ("MA", "HE", "SE")},
        **{f"segmentation/{kind}/mean": value for kind, value in
           {"dice": 0.4, "iou": 0.25, "aupr": 0.75, "auc": 10 / 12, "image/dice": 0.5,
            "image/iou": 1 / 3}.items()},
        "segmentation/dice/mean_with_disc": (0.4 + 5 / 6) / 2,
        "segmentation/iou/mean_with_disc": (1 / 4 + 5 / 7) / 2,
        "segmentation/aupr/mean_with_disc": (0.75 + 6 / 7 + 1 / 8) / 2,
        "segmentation/auc/mean_with_disc": (10 / 12 + 6.5 / 7) / 2,
        "segmentation/image/dice/mean_with_disc": (0.5 + 0.75) / 2,
        "segmentation/image/iou/mean_with_disc": (1 / 3 + 2 / 3) / 2,
        # Of eight pixels three are predicted, two true, one right: of the background 5, 6 and 4.
        "segmentation/with_background/dice/EX": (2 / 5 + 8 / 11) / 2,
        "segmentation/with_background/iou/EX": (1 / 4 + 4 / 7) / 2,
        "segmentation/pixel_accuracy/EX": 5 / 8,
        # Five predicted, seven true, five right: of the background 3, 1 and 1.
        "segmentation/with_background/dice/OD": (10 / 12 + 2 / 4) / 2,
        "segmentation/with_background/iou/OD": (5 / 7 + 1 / 3) / 2,
        "segmentation/pixel_accuracy/OD": 6 / 8,
        "segmentation/with_background/dice/mean": (2 / 5 + 8 / 11) / 2,
        "segmentation/with_background/iou/mean": (1 / 4 + 4 / 7) / 2,
        "segmentation/pixel_accuracy/mean": 5 / 8,
        # all channels of a photograph together: 2*5/(6+6) and 2*1/(2+3), then their mean
        "segmentation/report_dice": (10 / 12 + 2 / 5) / 2,
    }, abs=1e-6)  # fmt: skip
    table = metrics.per_photograph()
    assert list(table.columns) == [*LESIONS, "report_dice"]
    np.testing.assert_allclose(table[["EX", "OD"]], [[0.5, 1], [np.nan, 0.5]])
    assert table[["MA", "HE", "SE"]].isna().all().all()
    assert table["report_dice"].mean() == pytest.approx(result["segmentation/report_dice"])


def test_one_prediction_under_every_papers_score():
    """Eight by eight pixels: two of exudates, one found; two of haemorrhages, both found, and a false one."""
    masks, scores = np.zeros((2, 1, 5, 8, 8))
    masks[0, LESIONS.index("EX"), 0, [0, 7]] = 1
    scores[0, LESIONS.index("EX"), 0, 0] = 1
    masks[0, LESIONS.index("HE"), 7, [0, 7]] = 1
    scores[0, LESIONS.index("HE"), 7, [0, 7]] = 1
    scores[0, LESIONS.index("HE"), 4, 4] = 1
    found = every_papers_score(scores, masks).set_index(["paper", "score"]).value
    assert len(found) == 10  # MA and SE are absent: their AUPR has no value
    assert found["shared-encoder report"].item() == pytest.approx(2 * 3 / (4 + 4))
    assert found["MTUnet"].tolist() == pytest.approx([2 * 2 / (3 + 2), 2 * 1 / (1 + 2)])
    # Fused: four predicted, four true, three right; of the background 60, 60 and 59.
    lesion, background = 2 * 3 / 8, 2 * 59 / 120
    iou = (3 / 5 + 59 / 61) / 2
    assert found["PLDMLT"].tolist() == pytest.approx([lesion, (lesion + background) / 2, iou, 62 / 64])


def test_a_set_without_any_lesion_has_only_false_alarms_and_the_reports_dice():
    metrics = SegmentationMetrics()
    metrics.update(np.zeros((3, 5, 4, 4)), np.zeros((3, 5, 4, 4)))
    expected = {f"segmentation/image/false_alarm/{lesion}": 0 for lesion in LESIONS}
    # smooth / smooth: the report's Dice gives full marks for an empty answer to an empty truth
    assert metrics.compute() == expected | {"segmentation/report_dice": 1}
    assert set(metrics.compute(n_bootstrap=10).values()) == {0, 1}
    assert REPORT_SMOOTH < 1e-3
    with pytest.raises(MTLError, match="no photograph shows EX"):
        metrics.curve("EX")


def test_all_negative_prediction_scores_zero_where_the_lesion_is():
    masks = draw_masks()[1]
    result = collect(torch.zeros_like(masks), masks).compute()
    for k, lesion in enumerate(LESIONS):
        assert result[f"segmentation/dice/{lesion}"] == result[f"segmentation/image/iou/{lesion}"] == 0
        # all scores equal: precision at the only threshold is the share of lesion pixels
        assert result[f"segmentation/aupr/{lesion}"] == pytest.approx(masks[:, k].mean().item())
    assert result["segmentation/image/false_alarm/SE"] == 0
    assert "segmentation/image/false_alarm/EX" not in result  # every photograph has exudates


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0, 1, 64]))
@settings(deadline=None, max_examples=15)
def test_properties_of_any_masks(seed, n, steps):
    generator = np.random.default_rng(seed)
    scores = generator.choice([0, 0.25, 0.5, 0.75, 1], size=(n, 5, 3, 3))
    masks = generator.random((n, 5, 3, 3)) < generator.choice([0, 0.2, 1])
    result = collect(scores, masks, batch=1 + seed % 3, steps=steps).compute()
    assert all(0 <= value <= 1 for value in result.values())
    for lesion in LESIONS:
        if f"segmentation/dice/{lesion}" in result:
            dice, iou = result[f"segmentation/dice/{lesion}"], result[f"segmentation/iou/{lesion}"]
            assert dice == pytest.approx(2 * iou / (1 + iou))
    perfect = collect(masks.astype(np.float32), masks, steps=steps).compute()
    assert all(value == (0 if "false_alarm" in name else 1) for name, value in perfect.items())


def test_batches_merge_and_order_do_not_matter():
    scores, masks = draw_masks(6)
    whole = collect(scores, masks, batch=6).compute()
    parts = collect(scores[4:], masks[4:]).merge(collect(scores[:4], masks[:4], batch=1))
    assert len(parts) == 6 and parts.compute() == pytest.approx(whole, abs=1e-12)
    with pytest.raises(MTLError, match="64 and of 8 steps"):
        parts.merge(SegmentationMetrics(steps=8))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_devices_types_and_numpy_agree(device, dtype):
    scores, masks = draw_masks()
    scores = scores.to(dtype)
    result = collect(scores.to(device, copy=True).requires_grad_(), masks.to(device).bool()).compute()
    read_only = masks.numpy().astype(np.uint8)
    read_only.flags.writeable = False  # as a memory-mapped working copy gives it
    assert result == collect(scores.double().numpy(), read_only).compute()


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_pass_without_a_warning():
    masks = np.zeros((1, 5, 2, 2), np.uint8)
    masks.flags.writeable = False
    torch.set_warn_always(True)  # torch says this warning once per process, perhaps in an earlier test
    try:
        SegmentationMetrics().update(masks.astype(float), masks)
    finally:
        torch.set_warn_always(False)


def test_segmentation_draw_is_scored_as_if_it_were_the_test_set(monkeypatch):
    scores, masks = draw_masks(5)
    counts = np.array([2, 0, 2, 0, 1])  # the only photograph without MA is not drawn
    monkeypatch.setattr(module, "_draws", lambda *_: [counts[None].astype(float)])
    result = collect(scores.double(), masks).compute(n_bootstrap=1)
    drawn = torch.tensor(np.repeat(np.arange(5), counts))
    expected = reference(scores[drawn].double(), masks[drawn])
    assert expected == pytest.approx({name: result[f"{name}/low"] for name in expected}, abs=1e-6)
    assert "segmentation/image/false_alarm/MA" in result
    assert "segmentation/image/false_alarm/MA/low" not in result


def test_segmentation_bootstrap_is_fast_and_repeatable():
    scores, masks = draw_masks(27)
    metrics = collect(scores, masks, batch=9)
    start = time.perf_counter()
    result = metrics.compute(n_bootstrap=1000, seed=3)
    assert time.perf_counter() - start < 5
    plain = metrics.compute()
    assert {name: result[name] for name in plain} == plain
    assert all(result[f"{name}/low"] <= value <= result[f"{name}/high"] for name, value in plain.items())
    assert result == metrics.compute(n_bootstrap=1000, seed=3)


def test_curve_is_sklearns_and_its_area_is_the_aupr():
    scores, masks = draw_masks()
    metrics = collect(scores.double(), masks, steps=0)
    precision, recall, thresholds = metrics.curve("HE")
    truth, score = masks[:, 1].flatten().numpy(), scores[:, 1].double().flatten().numpy()
    score = np.floor(score * 100) / 100
    for ours, theirs in zip((precision, recall, thresholds), sk.precision_recall_curve(truth, score)):
        np.testing.assert_allclose(ours, theirs)
    area = -np.sum(np.diff(recall) * precision[:-1])
    assert metrics.compute()["segmentation/aupr/HE"] == pytest.approx(area)
    with pytest.raises(MTLError, match="unknown lesion 'he'"):
        metrics.curve("he")


EMPTY = np.zeros((2, 5, 4, 4))


def changed(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[1, 2, 0, 3] = value
    return array


@pytest.mark.parametrize(
    ("scores", "masks", "message"),
    [
        (changed(EMPTY, np.nan), EMPTY, r"photograph 2, lesion EX, pixel \(0, 3\) has the value nan"),
        (changed(EMPTY, 1.5), EMPTY, "value 1.5.*sigmoid"),
        (changed(EMPTY, -0.1), EMPTY, "value -0.1"),
        (EMPTY, changed(EMPTY, 255), "photograph 2, lesion EX.*value 255.*by 255"),
        (EMPTY[:, :4], EMPTY[:, :4], r"shape \(2, 4, 4, 4\)"),
        (EMPTY[0], EMPTY[0], r"shape \(5, 4, 4\)"),
        (EMPTY, EMPTY[..., :3], r"masks \(2, 5, 4, 3\)"),
    ],
)
def test_update_names_what_is_wrong_and_adds_nothing(scores, masks, message):
    metrics = SegmentationMetrics()
    metrics.update(EMPTY[:1], EMPTY[:1])
    with pytest.raises(MTLError, match=message):
        metrics.update(scores, masks)
    assert len(metrics) == 1


def test_nothing_seen_and_bad_settings():
    metrics = SegmentationMetrics()
    metrics.update(EMPTY[:0], EMPTY[:0])
    for ask in (metrics.compute, metrics.per_photograph, lambda: metrics.curve("EX")):
        with pytest.raises(MTLError, match="no photograph to score"):
            ask()
    with pytest.raises(MTLError, match="steps is -2"):
        SegmentationMetrics(steps=-2)
    metrics.update(*lone({}, {}))
    for bad in (1.0, -0.1, 0.12345):
        with pytest.raises(MTLError, match="not a hundredth"):
            metrics.compute(threshold=bad)


def pixels(*places: int) -> np.ndarray:
    """(2, 4): 1 at these of the eight pixels."""
    picture = np.zeros(8)
    picture[list(places)] = 1
    return picture.reshape(2, 4)


def test_red_yellow_and_disc_by_hand():
    masks = np.stack([pixels(0, 1), pixels(4, 5, 6), pixels(7)])[None]
    scores = np.stack([0.9 * pixels(1, 2, 3), 0.6 * pixels(4, 5), 0.5 * pixels(7)])[None]
    metrics = SegmentationMetrics(space=RED_YELLOW)
    metrics.update(scores, masks)
    result = metrics.compute()
    # red: 1 of 3 predicted and of 2 true: 2*1/(3+2); yellow: 2 of 2, of 3 true: 2*2/(2+3); the disc is right.
    dice = {"red": 0.4, "yellow": 0.8, "disc": 1.0, "mean": 0.6, "mean_with_disc": 2.2 / 3}
    iou = {"red": 1 / 4, "yellow": 2 / 3, "disc": 1.0, "mean": 11 / 24, "mean_with_disc": 23 / 36}
    for kind, expected in (("dice", dice), ("iou", iou)):
        for name, value in expected.items():
            assert result[f"segmentation/{kind}/{name}"] == pytest.approx(value), name
            assert result[f"segmentation/image/{kind}/{name}"] == pytest.approx(value), name
    assert result["segmentation/report_dice"] == pytest.approx(2 * 4 / (6 + 6))
    assert list(metrics.per_photograph().columns) == ["red", "yellow", "disc", "report_dice"]
    assert not {name.split("/")[-1] for name in result} & {*LESIONS, "background", "outside"}


def test_metrics_of_two_label_spaces_do_not_mix():
    metrics = SegmentationMetrics(space=RED_YELLOW)
    with pytest.raises(MTLError, match=r"photographs, 3, height"):
        metrics.update(np.zeros((1, 5, 2, 4)), np.zeros((1, 5, 2, 4)))
    with pytest.raises(MTLError, match="red-yellow and lesions"):
        metrics.merge(SegmentationMetrics(space=LESION_SPACE))
    bad = np.zeros((1, 3, 2, 4))
    bad[0, 1, 0, 2] = 2
    with pytest.raises(MTLError, match="lesion yellow"):
        metrics.update(bad, np.zeros_like(bad))


# ------------------------------------------------------------------------------------------------- Delta_MTL
def test_delta_mtl_by_hand():
    # IoU 40 -> 42: +5 %; error 0.50 -> 0.55, lower is better: -10 %; mean -2.5 %
    multi, single = {"iou": 42.0, "error": 0.55}, {"iou": 40.0, "error": 0.50}
    assert delta_mtl(multi, single, higher_is_better={"error": False}) == pytest.approx(-2.5)
    # both higher is better: (5 + 10) / 2
    assert delta_mtl(multi, single) == pytest.approx(7.5)
    assert delta_mtl(single, single) == 0


@pytest.mark.parametrize(
    ("multi", "single", "options", "message"),
    [
        ({}, {}, None, "same tasks"),
        ({"a": 1}, {"b": 1}, None, "same tasks"),
        ({"a": 1}, {"a": 1}, {"loss": False}, "same tasks.*loss"),
        ({"a": 1}, {"a": 0}, None, "a is 1 against 0"),
        ({"a": 1}, {"a": -0.1}, None, "above 0"),
        ({"a": float("nan")}, {"a": 1}, None, "a is nan"),
    ],
)
def test_delta_mtl_names_what_is_wrong(multi, single, options, message):
    with pytest.raises(MTLError, match=message):
        delta_mtl(multi, single, options)


# --- means over photographs ---------------------------------------------------------------------------------


def test_means_leave_out_what_a_photograph_cannot_answer():
    photographs = pd.DataFrame({
        "auc/MA": [0.5, np.nan, 0.8],
        "auc/SE": 3 * [np.nan],
        "psnr": [40.0, np.inf, 44.0],  # of a picture that is the original no mean can be taken
    })  # fmt: skip
    assert mean_metrics(photographs, "x") == pytest.approx({"x/auc/MA": 0.65, "x/psnr": 42})
    assert mean_metrics(photographs.iloc[:0], "x", n_bootstrap=10) == {}
    assert mean_metrics(pd.DataFrame(), "x", n_bootstrap=10) == {}


def test_a_gains_interval_is_that_of_the_pairs():
    rng = np.random.default_rng(0)
    simple = rng.normal(40, 3, 60)  # photographs differ by far more than the two ways to enlarge
    gain = rng.normal(0.5, 0.1, 60)
    table = pd.DataFrame({"psnr": simple + gain, "bicubic/psnr": simple, "gain/psnr": gain})
    found = mean_metrics(table, "isr", n_bootstrap=1000, seed=1)
    names = [f"isr/{column}{end}" for column in table for end in ("", "/low", "/high")]
    assert sorted(found) == sorted(names)
    error = 1.96 / np.sqrt(60)  # the standard error of a mean, twice
    for column in table:
        low, high = (found[f"isr/{column}/{end}"] - found[f"isr/{column}"] for end in ("low", "high"))
        assert (-low, high) == pytest.approx(2 * [error * table[column].std(ddof=0)], rel=0.2)
    assert found["isr/gain/psnr/low"] > 0.4 and found["isr/psnr/low"] < found["isr/bicubic/psnr/high"]
    assert mean_metrics(table, "isr", n_bootstrap=1000, seed=1) == found


def test_masks_by_photograph_are_at_the_threshold_that_is_asked_for():
    metrics = SegmentationMetrics(space=FUSED)
    metrics.update(torch.tensor([[[[0.9, 0.4, 0.4, 0.1]]]]), torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]))
    assert metrics.per_photograph(0.5).lesion.item() == pytest.approx(2 / 3)  # 2 x 1 / (1 + 2)
    assert metrics.per_photograph(0.3).lesion.item() == pytest.approx(4 / 5)  # 2 x 2 / (3 + 2)


def test_every_draw_of_a_bootstrap_is_another():
    """They come in blocks."""
    draws = np.concatenate([*module._draws(20, 600, seed=0)])
    assert draws.shape == (600, 20) and (draws.sum(axis=1) == 20).all()
    assert len(np.unique(draws, axis=0)) == 600
