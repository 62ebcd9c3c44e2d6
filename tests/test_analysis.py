"""What chapter 08 computes, against numbers worked out by hand and against other libraries."""

from __future__ import annotations

from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    log_loss,
    roc_auc_score,
)

from mtl_utils import analysis
from mtl_utils.errors import MTLError
from mtl_utils.lesions import LESIONS
from mtl_utils.metrics import SegmentationMetrics, grading_metrics, grading_values, with_intervals

RECORD = [
    {"name": "b", "task": "grading", "grade": 3.0, "p0": 0.1, "p1": 0.1, "p2": 0.6, "p3": 0.2, "p4": 0.0}
    | dict.fromkeys(LESIONS) | {"report_dice": None},
    {"name": "a", "task": "grading", "grade": 0.0, "p0": 0.7, "p1": 0.1, "p2": 0.1, "p3": 0.1, "p4": 0.0}
    | dict.fromkeys(LESIONS) | {"report_dice": None},
    {"name": "z", "task": "segmentation", "grade": None, **{f"p{grade}": None for grade in range(5)},
     "MA": 0.2, "HE": None, "EX": 0.6, "SE": None, "OD": 0.9, "report_dice": 0.8},
]  # fmt: skip


def chances(n: int, seed: int, sharp: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Grades, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 5, n)
    logits = sharp * rng.normal(size=(n, 5)) + 1.2 * np.eye(5)[grades]
    powers = np.exp(logits)
    return grades, powers / powers.sum(axis=1, keepdims=True)


def test_a_curve_through_all_its_thresholds_has_the_aupr_below_it():
    rng = np.random.default_rng(0)
    masks = rng.random((2, len(LESIONS), 30, 30)) < 0.2
    scores = 1 / (1 + np.exp(-6 * (rng.normal(size=masks.shape) + 1.5 * masks - 1)))  # sure of most pixels
    metrics = SegmentationMetrics()
    metrics.update(scores, masks)
    curve, aupr = metrics.curve("HE"), metrics.compute()["segmentation/aupr/HE"]
    precision, recall, area = analysis.through_thresholds(curve, curve[2])
    assert area == pytest.approx(aupr)
    assert (precision.tolist(), recall.tolist()) == (curve[0][:-1].tolist(), curve[1][:-1].tolist())
    chosen = np.arange(11) / 10
    precision, recall, area = analysis.through_thresholds(curve, chosen)
    truth, score = masks[:, 1].ravel(), scores[:, 1].ravel()
    marked = [score >= threshold for threshold in chosen[:-1]]
    assert recall[:-1] == pytest.approx([truth[each].sum() / truth.sum() for each in marked])
    assert precision[:-1] == pytest.approx([truth[each].mean() for each in marked])
    assert area == pytest.approx(average_precision_score(truth, np.floor(10 * score)))
    assert area < aupr - 0.02


# Photograph by photograph


def test_a_record_becomes_a_table_of_answers() -> None:
    for rows in (RECORD, pd.DataFrame(RECORD)):
        table = analysis.graded(rows)
        assert table.index.tolist() == ["a", "b"] and table.grade.tolist() == [0, 3]
        assert table.predicted.tolist() == [0, 2] and table.right.tolist() == [True, False]
        assert table.confidence.tolist() == [0.7, 0.6]
        masks = analysis.drawn(rows)
        assert masks.index.tolist() == ["z"] and masks.lesions.item() == pytest.approx(0.4)
        assert "HE" not in masks and "p0" not in masks and masks.report_dice.item() == 0.8
    assert analysis.graded([]).empty and analysis.drawn([]).empty
    assert analysis.drawn(RECORD[:2]).empty and analysis.graded(RECORD[2:]).empty


# Two systems


def test_mcnemar_by_hand() -> None:
    """Ten photographs that only one of them has right, eight to two: 2 * (1 + 10 + 45) / 1024."""
    one = [True] * 8 + [False] * 2 + [True] * 5 + [False] * 3
    other = [False] * 8 + [True] * 2 + [True] * 5 + [False] * 3
    found = analysis.mcnemar(one, other)
    assert found[:2] == (8, 2) and found.p == pytest.approx(112 / 1024)
    assert analysis.mcnemar(other, one)[:2] == (2, 8)
    assert analysis.mcnemar(other, one).p == found.p


@settings(deadline=None)  # the first call imports
@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_a_coin(b: int, c: int) -> None:
    n, most = b + c, max(b, c)
    tail = sum(comb(n, k) for k in range(most, n + 1)) / 2**n
    one, other = np.repeat([True, False], [b, c]), np.repeat([False, True], [b, c])
    assert analysis.mcnemar(one, other).p == pytest.approx(min(1, 2 * tail))


def test_mcnemar_refuses_other_photographs() -> None:
    with pytest.raises(MTLError, match="3 answers against 2"):
        analysis.mcnemar([True, False, True], [True, False])


def test_the_paired_difference_is_that_of_the_metrics() -> None:
    grades, one = chances(80, 0)
    other, third = chances(80, 1)[1], chances(80, 2)[1]
    runs = [grading_values(grades, each) for each in (one, other, third)]
    table = analysis.paired_bootstrap(runs[:2], runs[2:], 80, n_bootstrap=0)
    accuracies, kappas = (
        [score(grades, each.argmax(axis=1)) for each in (one, other, third)]
        for score in (accuracy_score, lambda true, named: cohen_kappa_score(true, named, weights="quadratic"))
    )
    for metric, values in (("accuracy", accuracies), ("qwk", kappas)):
        row = table.loc[f"grading/{metric}"]
        assert row.one == pytest.approx(np.mean(values[:2])) and row.other == pytest.approx(values[2])
        assert row.difference == pytest.approx(np.mean(values[:2]) - values[2])
    assert table.low.isna().all()


def test_the_interval_is_that_of_pairs() -> None:
    """Two systems that answer alike but for one photograph: the interval is that of one coin in n."""
    grades, one = chances(100, 3)
    other = one.copy()
    wrong = int(np.flatnonzero(one.argmax(axis=1) == grades)[0])
    other[wrong] = np.eye(5)[(grades[wrong] + 1) % 5]
    row = analysis.paired_bootstrap(
        [grading_values(grades, one)], [grading_values(grades, other)], 100, 2000, seed=5
    ).loc["grading/accuracy"]
    assert row.difference == pytest.approx(0.01) and row.low == 0 and 0.02 <= row.high <= 0.04
    alone = grading_metrics(grades, one, 2000, seed=5)
    width = alone["grading/accuracy/high"] - alone["grading/accuracy/low"]
    assert row.high - row.low < width / 3


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Of many pairs of systems that are equally good, about 95 in 100 intervals hold zero."""
    rng, n, held = np.random.default_rng(0), 100, 0
    for seed in range(120):
        right = rng.random((2, n)) < 0.6
        runs = [lambda w, own=own: {"accuracy": w @ own / w.sum(axis=1)} for own in right.astype(float)]
        row = analysis.paired_bootstrap(runs[:1], runs[1:], n, 500, seed).loc["accuracy"]
        held += row.low <= 0 <= row.high
    assert 107 <= held <= 119  # 95 % of 120 are 114; three standard deviations are 7


def test_what_only_one_system_has_is_left_out() -> None:
    one = [lambda weights: {"a": weights @ [1.0, 2.0], "b": weights[:, 0]}]
    other = [lambda weights: {"a": weights @ [0.5, 0.5], "c": weights[:, 0]}]
    assert analysis.paired_bootstrap(one, other, 2, 10).index.tolist() == ["a"]


def test_masks_are_compared_in_the_same_way() -> None:
    rng = np.random.default_rng(0)
    masks = (rng.random((6, 5, 8, 8)) < 0.3).astype(float)
    scores = []
    for noise in (0.5, 2.0):
        scores.append(SegmentationMetrics())
        scores[-1].update((0.7 * masks + 0.3 * rng.random(masks.shape) ** (1 / noise)).clip(0, 1), masks)
    table = analysis.paired_bootstrap([scores[0].values()], [scores[1].values()], 6, 300)
    for metric in ("segmentation/dice/EX", "segmentation/aupr/mean"):
        assert table.difference[metric] == pytest.approx(
            scores[0].compute()[metric] - scores[1].compute()[metric]
        )
        assert table.low[metric] <= table.difference[metric] <= table.high[metric]


def test_confusions_are_counted_over_the_runs() -> None:
    table = analysis.confusions([2, 2, 2, 4], [[2, 0, 0, 4], [2, 2, 0, 3]])
    assert table.true.tolist() == [2, 4] and table.predicted.tolist() == [0, 3]
    assert table.photographs.tolist() == [1.5, 0.5] and table.share.tolist() == [0.5, 0.5]


# Calibration


def test_calibration_by_hand() -> None:
    """Two bins of ten: three answers of 0.62 with one right, two of 0.91 with both right."""
    confidence, right = [0.62, 0.62, 0.62, 0.91, 0.91], [True, False, False, True, True]
    bins = analysis.reliability_bins(confidence, right)
    assert bins.low.tolist() == [0.6, 0.9] and bins.high.tolist() == [0.7, 1.0]
    assert bins.photographs.tolist() == [3, 2] and bins.right.tolist() == [pytest.approx(1 / 3), 1]
    by_hand = 0.6 * (0.62 - 1 / 3) + 0.4 * (1 - 0.91)
    assert analysis.calibration_error(confidence, right) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_bins_agree_with_scikit_learn_and_the_error_with_the_bins(bins: int) -> None:
    rng = np.random.default_rng(bins)
    confidence = rng.random(400)
    right = rng.random(400) < confidence**2
    found = analysis.reliability_bins(confidence, right, bins)
    share, mean = calibration_curve(right, confidence, n_bins=bins)
    assert np.allclose(found.right, share) and np.allclose(found.confidence, mean)
    assert found.photographs.sum() == 400
    weights = found.photographs / 400
    expected = (weights * (found.right - found.confidence).abs()).sum()
    assert analysis.calibration_error(confidence, right, bins) == pytest.approx(expected, abs=1e-6)


def test_few_photographs_look_badly_calibrated() -> None:
    few, many = (
        analysis.calibrated_errors(np.random.default_rng(0).uniform(0.3, 1, n), draws=100).mean()
        for n in (50, 5000)
    )
    assert few > 0.06 and many < 0.02
    assert (analysis.calibrated_errors([1.0] * 9, draws=5) == 0).all()


def test_temperature_finds_what_was_done_to_the_logits() -> None:
    """Grades drawn with the network's own probabilities; then its logits are multiplied by 3."""
    rng = np.random.default_rng(0)
    honest = chances(4000, 7)[1]
    grades = np.array([rng.choice(5, p=row) for row in honest])
    assert analysis.fit_temperature(grades, honest) == pytest.approx(1, abs=0.06)
    boastful = analysis.tempered(honest, 1 / 3)
    found = analysis.fit_temperature(grades, boastful)
    assert found == pytest.approx(3, abs=0.2)
    assert np.allclose(analysis.tempered(boastful, 3), honest)
    losses = [log_loss(grades, analysis.tempered(boastful, t)) for t in (0.9 * found, found, 1.1 * found)]
    assert losses[1] == min(losses)
    errors = [
        analysis.calibration_error(p.max(axis=1), p.argmax(axis=1) == grades)
        for p in (boastful, analysis.tempered(boastful, found))
    ]
    assert errors[1] < 0.03 < 0.1 < errors[0]


def test_the_middle_grade_costs_least() -> None:
    """Against every grade tried out, its expected squared distance by hand."""
    grades = np.arange(5)
    _, probabilities = chances(300, 11)
    costs = np.array([[(row * (named - grades) ** 2).sum() for named in grades] for row in probabilities])
    assert (analysis.middle_grade(probabilities) == costs.argmin(axis=1)).all()
    half = np.array([[0, 0.5, 0.5, 0, 0], [0.7, 0, 0, 0, 0.3], [0, 0, 0, 0, 1]])
    assert analysis.middle_grade(half).tolist() == [2, 1, 4]


def test_two_rules_for_the_same_probabilities() -> None:
    """Against scikit-learn; the middle of the second photograph is 2, its likeliest grade 0."""
    probabilities = [[0.9, 0.1, 0, 0, 0], [0.4, 0, 0.3, 0.3, 0], [0, 0, 0.2, 0.2, 0.6], [0, 0.1, 0.9, 0, 0]]
    rows = [
        {"name": str(place), "task": "grading", "grade": grade} | {f"p{g}": p for g, p in enumerate(row)}
        for place, (grade, row) in enumerate(zip([0, 2, 4, 2], probabilities, strict=True))
    ]
    found = analysis.scores_by_rule(rows)
    assert found.accuracy.to_dict() == {"likeliest": 0.75, "middle": 0.75}
    for rule, named in (("likeliest", [0, 0, 4, 2]), ("middle", [0, 2, 3, 2])):
        expected = cohen_kappa_score([0, 2, 4, 2], named, labels=range(5), weights="quadratic")
        assert found.QWK[rule] == pytest.approx(expected)


def test_an_ensemble_by_hand() -> None:
    def answers(*rows: list[float]) -> pd.DataFrame:
        return analysis.graded(
            [
                {"name": name, "task": "grading", "grade": grade} | {f"p{g}": p for g, p in enumerate(row)}
                for name, grade, row in zip("ba", (2, 0), rows, strict=True)
            ]
        )

    one = answers([0.6, 0, 0.4, 0, 0], [1, 0, 0, 0, 0])
    other = answers([0, 0.3, 0.7, 0, 0], [0.2, 0, 0, 0, 0.8])
    found = analysis.ensemble([one, other])
    assert found.index.tolist() == ["a", "b"] and found.columns.equals(one.columns)
    assert np.allclose(found.loc["b", analysis.PROBABILITIES].astype(float), [0.3, 0.15, 0.55, 0, 0])
    assert found.predicted.tolist() == [0, 2] and found.right.all()
    assert np.allclose(found.confidence, [0.6, 0.55])
    with pytest.raises(MTLError, match="the same photographs"):
        analysis.ensemble([one, other.iloc[:1]])
    with pytest.raises(MTLError, match="the same grades"):
        analysis.ensemble([one, other.assign(grade=3)])


def test_scores_of_networks_and_of_their_ensemble_by_hand() -> None:
    def answers(*rows: list[float]) -> pd.DataFrame:
        return analysis.graded(
            [
                {"name": str(place), "task": "grading", "grade": grade}
                | {f"p{g}": p for g, p in enumerate(row)}
                for place, (grade, row) in enumerate(zip((0, 2), rows, strict=True))
            ]
        )

    one = answers([0.5, 0, 0.5, 0, 0], [0.75, 0, 0.25, 0, 0])  # of two equal ones the first is named
    other = answers([1, 0, 0, 0, 0], [0.25, 0, 0.75, 0, 0])
    found = analysis.scores_of_ensemble([one, other])
    assert found.accuracy.tolist() == [0.5, 1, 0.5]
    by_hand = [-np.log([0.5, 0.25]).mean(), -np.log([1, 0.75]).mean(), -np.log([0.75, 0.5]).mean()]
    assert np.allclose(found["cross-entropy"], by_hand)
    assert found.QWK.tolist() == pytest.approx([0, 1, 0])
    sure_and_wrong = analysis.scores_of_ensemble([answers([0, 1, 0, 0, 0], [0, 0, 1, 0, 0])])
    assert np.isfinite(sure_and_wrong["cross-entropy"]).all()  # a probability may be rounded to 0 in a record


def test_temperature_keeps_every_answer() -> None:
    _, probabilities = chances(200, 4)
    for temperature in (0.3, 2.5):
        changed = analysis.tempered(probabilities, temperature)
        assert np.allclose(changed.sum(axis=1), 1)
        assert (changed.argsort(axis=1) == probabilities.argsort(axis=1)).all()
    # What was rounded to 0 in a record keeps a logarithm.
    assert (analysis.tempered(np.array([[1.0, 0, 0, 0, 0]]), 2) > 0).all()
    assert analysis.fit_temperature([0, 0], np.array([[0.6, 0.1, 0.1, 0.1, 0.1]] * 2)) < 0.06


# Lesions


def masks_of(**places: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(places.get(lesion, np.zeros((6, 6)))) for lesion in LESIONS])


def squares(*boxes: tuple[int, int, int]) -> np.ndarray:
    """(top, left, side) each."""
    mask = np.zeros((6, 6), np.uint8)
    for top, left, side in boxes:
        mask[top : top + side, left : left + side] = 1
    return mask


def test_lesions_are_counted_as_scipy_does() -> None:
    corner = np.eye(6, dtype=np.uint8)  # touches by corners only: one
    found = analysis.lesion_counts(
        masks_of(MA=squares((0, 0, 1), (3, 3, 2)), HE=corner, OD=squares((0, 0, 6)))
    )
    assert found == {"MA": 2, "HE": 1, "EX": 0, "SE": 0}
    rng = np.random.default_rng(0)
    noise = (rng.random((6, 6)) < 0.3).astype(np.uint8)
    assert analysis.lesion_counts(masks_of(SE=noise))["SE"] == ndimage.label(noise, np.ones((3, 3)))[1]


def test_each_lesion_has_its_own_recall() -> None:
    truth, marked = squares((0, 0, 2), (4, 4, 1)), squares((0, 1, 2))
    found = analysis.found_lesions(truth, marked)
    assert found.area.tolist() == [4, 1] and found.recall.tolist() == [0.5, 0]
    assert analysis.found_lesions(np.eye(3), np.eye(3)).area.tolist() == [3]  # touching by corners: one
    assert analysis.found_lesions(np.zeros((3, 3)), np.ones((3, 3))).empty


def test_sizes_lesion_by_lesion_and_photograph_by_photograph() -> None:
    truth = masks_of(MA=squares((0, 0, 2), (4, 4, 1)), EX=squares((0, 0, 3)), OD=squares((0, 0, 6)))
    marked = masks_of(MA=squares((0, 1, 2)), EX=squares((0, 0, 3)), SE=squares((0, 0, 1)))
    single, whole = analysis.lesion_sizes(np.stack([truth, 0 * truth]), np.stack([marked] * 2), ["x", "y"])
    assert single.name.tolist() == ["x"] * 3 and single.lesion.tolist() == ["MA", "MA", "EX"]
    assert single.area.tolist() == [4, 1, 9] and single.recall.tolist() == [0.5, 0, 1]
    assert whole.lesion.tolist() == ["MA", "EX"] and whole.area.tolist() == [5, 9]
    assert whole.dice.tolist() == [pytest.approx(2 * 2 / (5 + 4)), 1]
    none = analysis.lesion_sizes(np.stack([0 * truth]), np.stack([marked]), ["y"])
    assert none[0].empty and none[1].empty


def test_recall_by_size_draws_photographs() -> None:
    lesions = pd.DataFrame(
        {"name": list("aabb"), "area": [1, 2, 20, 30], "recall": [0.0, 0.5, 1.0, 0.6], "lesion": "MA"}
    )
    found = analysis.recall_by_size(lesions, [1, 10, 100, 1000])
    assert found.lesions.tolist() == [2, 2] and found.recall.tolist() == [0.25, 0.8]
    assert found.area.tolist() == [1.5, 25] and found.high.tolist() == [10, 100]
    # Each size stands in one photograph: however it is drawn, its mean is the same.
    assert found.recall_low.tolist() == found.recall.tolist() == found.recall_high.tolist()
    lesions.name = list("abcd")
    spread = analysis.recall_by_size(lesions, [1, 10, 100])
    assert spread.recall_low.tolist() == [0, 0.6] and spread.recall_high.tolist() == [0.5, 1]


# Cases


def test_cases_follow_the_rule() -> None:
    scores = pd.Series({"e": 0.9, "d": 0.1, "c": np.nan, "b": 0.5, "a": 0.5})
    found = analysis.representative_cases(scores)
    assert found.index.tolist() == ["best", "median", "worst"]
    assert found.name.tolist() == ["e", "a", "d"] and found.score.tolist() == [0.9, 0.5, 0.1]
    shuffled = analysis.representative_cases(scores.sample(frac=1, random_state=3))
    assert shuffled.equals(found)
    assert analysis.representative_cases(scores, {"upper": 0.75}).name.tolist() == ["b"]
    with pytest.raises(MTLError, match="no photograph has a score"):
        analysis.representative_cases(pd.Series([np.nan]))


# A leak


def test_the_leak_by_hand() -> None:
    clean = pd.Series({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "f": np.nan})
    paper = pd.Series({"e": 0.5, "d": 0.5, "c": 0.4, "b": 0.5, "a": 0.4, "f": 1.0})
    found = analysis.leak_effect(clean, paper, {"a", "b", "f", "nobody"})
    assert (found["seen"], found["unseen"]) == (2, 3)
    assert found["gain_seen"] == pytest.approx(0.3) and found["gain_unseen"] == pytest.approx(0.2 / 3)
    assert found["gain"] == pytest.approx(0.16)
    assert found["seen_minus_unseen"] == pytest.approx(0.3 - 0.2 / 3)
    assert found["from_leak"] == pytest.approx(0.4 * (0.3 - 0.2 / 3))
    # What is not from the leak is what unseen photographs gain.
    assert found["gain"] - found["from_leak"] == pytest.approx(found["gain_unseen"])
    assert found["seen_minus_unseen/low"] <= found["seen_minus_unseen"] <= found["seen_minus_unseen/high"]


def test_a_leak_that_was_planted_is_found_and_a_shared_gain_is_none() -> None:
    rng = np.random.default_rng(0)
    names = [f"{place:02}" for place in range(60)]
    clean = pd.Series(rng.uniform(0.2, 0.6, 60), names)
    paper = clean + 0.05 + rng.normal(0, 0.05, 60)
    leaked = names[:30]
    none = analysis.leak_effect(clean, paper, leaked)
    assert none["seen_minus_unseen/low"] < 0 < none["seen_minus_unseen/high"] and none["gain/low"] > 0.03
    paper[leaked] += 0.2
    found = analysis.leak_effect(clean, paper, leaked)
    assert found["seen_minus_unseen/low"] > 0.15 and found["seen_minus_unseen/high"] < 0.25
    assert found["gain_unseen"] == pytest.approx(none["gain_unseen"])


def test_without_seen_photographs_there_is_no_difference() -> None:
    scores = pd.Series({"a": 0.1, "b": 0.2})
    found = analysis.leak_effect(scores, scores + 0.1, [])
    assert found["seen"] == 0 and "gain_seen" not in found and "seen_minus_unseen" not in found
    assert found["gain"] == pytest.approx(0.1)
    assert analysis.leak_effect(pd.Series(dtype=float), pd.Series(dtype=float), []) == {
        "seen": 0,
        "unseen": 0,
    }


# The bootstrap that all of them share


def test_intervals_are_those_of_the_metrics() -> None:
    grades, one = chances(60, 0)
    values = grading_values(grades, one)
    assert with_intervals(values, 60, 200, 3) == grading_metrics(grades, one, 200, 3)
    assert with_intervals(values, 60)["grading/auc/2"] == pytest.approx(roc_auc_score(grades == 2, one[:, 2]))


def test_draws_of_calibration_follow_the_seed():
    draws = [analysis.calibrated_errors([0.6, 0.7, 0.8] * 5, draws=5, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


def test_the_share_of_seen_photographs_is_drawn_too() -> None:
    clean = pd.Series(0.0, index=list("abcdefgh"))
    paper = clean.copy()
    paper[list("abcd")] = 1.0  # all of the gain is from the leak, in each draw
    found = analysis.leak_effect(clean, paper, "abcd")
    assert found["from_leak"] == found["gain"] == 0.5
    assert found["from_leak/low"] == found["gain/low"] < 0.5 < found["gain/high"] == found["from_leak/high"]


def test_calibration_keeps_its_bins_edges_and_ends() -> None:
    confidence = np.linspace(0.3, 1, 50)
    few, many = (analysis.calibrated_errors(confidence, bins, draws=50).mean() for bins in (2, 40))
    assert few < many / 2
    found = analysis.reliability_bins([0.5, 0.55, 0.75, 1.0], [True] * 4, bins=4)
    assert found.low.tolist() == [0.5, 0.75] and found.photographs.tolist() == [2, 2]
    sure = np.eye(5)[[0, 2, 4]] * 0.5 + 0.1
    assert analysis.fit_temperature([0, 2, 4], sure) == pytest.approx(1 / 20, abs=0.01)
    assert analysis.fit_temperature([1, 3, 0], sure) == pytest.approx(20, abs=0.1)


def test_an_ensemble_on_one_grade_has_no_kappa() -> None:
    sure = {f"p{grade}": float(grade == 2) for grade in range(5)}
    rows = [{"name": name, "task": "grading", "grade": 2, **sure} for name in "ab"]
    found = analysis.scores_of_ensemble([analysis.graded(rows)])
    assert found.accuracy.tolist() == [1, 1] and found.QWK.isna().all()


def test_an_interval_that_ends_at_zero_tells_nothing() -> None:
    assert analysis.verdict(0, 1) == analysis.verdict(-1, 0) == "not to be told apart"
