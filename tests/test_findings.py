"""Grades from what a lesion network finds: the findings by hand, the two classifiers, and a run of both."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from mtl_utils.data.prepare import prepare
from mtl_utils.errors import MTLError
from mtl_utils.experiments import experiment
from mtl_utils.findings import THRESHOLDS, finding_names, findings
from mtl_utils.label_spaces import FOUR_LESIONS
from mtl_utils.lesions import DISEASE_LESIONS
from mtl_utils.records import make_record
from mtl_utils.systems.findings_grader import OPINIONS, FindingsGrader
from mtl_utils.training import evaluate, first_config, fit, fitting, load_config, load_model
from mtl_utils.training.distributed import check_processes

SMOKE = experiment("grade-from-findings", "smoke")


def named(probabilities: np.ndarray, lesion: str = "HE") -> dict[str, float]:
    names = finding_names([lesion])
    return dict(zip(names, findings(probabilities[None]).tolist(), strict=True))


# ---------------------------------------- findings
def test_findings_by_hand():
    picture = np.zeros((20, 20))  # 400 pixels: one is 2.5 thousandths
    picture[0, 0] = 1.0
    picture[1, 1] = 0.6  # touches the first by a corner
    picture[10:12, 10:13] = 0.3  # six pixels, in the lower right quarter
    found = named(picture)
    assert found["HE peak"] == 1.0
    assert found["HE expected area"] == pytest.approx(1000 * (1 + 0.6 + 6 * 0.3) / 400)
    for threshold, area, spots, largest in ((0.05, 8, 2, 6), (0.2, 8, 2, 6), (0.5, 2, 1, 2), (0.8, 1, 1, 1)):
        assert found[f"HE area at {threshold}"] == pytest.approx(2.5 * area)
        assert found[f"HE spots at {threshold}"] == spots
        assert found[f"HE largest spot at {threshold}"] == pytest.approx(2.5 * largest)
    assert found["HE quarters"] == 1  # two pixels in the upper left are too few


def test_a_lesion_in_every_quarter_and_in_none():
    picture = np.zeros((21, 21))
    assert named(picture) == dict.fromkeys(finding_names(["HE"]), 0.0)
    for rows in (2, 15):
        for columns in (2, 15):
            picture[rows : rows + 3, columns : columns + 2] = 0.2
    assert named(picture)["HE quarters"] == 4
    assert named(picture)["HE spots at 0.2"] == 4


def test_findings_are_named_in_the_order_of_the_lesions():
    names = finding_names(DISEASE_LESIONS)
    assert len(names) == len(set(names)) == len(DISEASE_LESIONS) * (3 + 3 * len(THRESHOLDS))
    maps = np.zeros((len(DISEASE_LESIONS), 8, 8))
    maps[2] = 0.9
    found = dict(zip(names, findings(maps), strict=True))
    assert {name.split()[0] for name, value in found.items() if value} == {DISEASE_LESIONS[2]}


# ---------------------------------------- the grader
@pytest.fixture(scope="module")
def learned() -> FindingsGrader:
    """It has seen forty photographs of which findings tell grade 0 from 2, and appearance 0 from 4."""
    grader = FindingsGrader(SMOKE.encoder_name, None, FOUR_LESIONS).eval()
    rng, grades = np.random.default_rng(0), torch.tensor([0, 2, 4, 0] * 10)
    lengths = {name: each.shape[1] for name, each in grader.describe(torch.rand(1, 3, 64, 64)).items()}
    described = {
        name: torch.from_numpy(rng.normal(0, 0.1, (40, length))).float() for name, length in lengths.items()
    }
    described["findings"][grades == 2] += 5
    described["appearance"][grades == 4] += 5
    grader.learn(described, grades)
    return grader


def test_a_grader_averages_two_opinions(learned, monkeypatch):
    number = {name: learned.known[name].shape[1] for name in OPINIONS}
    ill = {
        "findings": torch.full((1, number["findings"]), 5.0),
        "appearance": torch.zeros(1, number["appearance"]),
    }
    monkeypatch.setattr(learned, "describe", lambda image: ill)
    image = torch.rand(1, 3, 64, 64)
    opinions = learned.opinions(image)
    assert opinions["findings"].argmax() == 2
    assert opinions["appearance"].argmax() != 4
    mean = (opinions["findings"] + opinions["appearance"]) / 2
    probabilities = learned(image, tasks=("grading",))["grading"].exp().numpy()
    assert probabilities == pytest.approx(mean, abs=2e-6)
    assert probabilities[0, [1, 3]] == pytest.approx(0, abs=2e-6)  # never seen, and yet it has a logarithm


def test_a_file_gives_the_same_grader(learned, tmp_path):
    torch.save(learned.state_dict(), tmp_path / "grader.pt")
    other = FindingsGrader(SMOKE.encoder_name, None, FOUR_LESIONS).eval()
    other.load_state_dict(torch.load(tmp_path / "grader.pt", weights_only=True))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(other(images)["grading"], learned(images)["grading"])


def test_a_grader_that_cannot_answer_says_so(learned):
    grader = FindingsGrader(SMOKE.encoder_name, None, FOUR_LESIONS)
    with pytest.raises(MTLError, match="not learned yet"):
        grader(torch.rand(1, 3, 64, 64))
    with pytest.raises(MTLError, match="two photographs of each"):
        grader.learn({name: learned.known[name][:3] for name in OPINIONS}, torch.tensor([0, 0, 1]))
    with pytest.raises(MTLError, match="call it with photographs"):
        learned.heads([], ("grading",))


# ---------------------------------------- a run
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lesion_network": None}, "has a lesion_network"),
        ({"system": "shared-encoder"}, "has a lesion_network"),
        ({"epochs": 2}, "in one epoch"),
        ({"augment": True}, "without augmentation"),
        ({"lesion_network": experiment("unet", "smoke")}, "do not exclude each other"),
        ({"lesion_network": experiment("lesions-mean", "smoke")}, "builds on one unet"),
        ({"grading_size": 64}, "knows photographs of 128 px"),
    ],
)
def test_settings_that_do_not_fit(settings, said):
    with pytest.raises(MTLError, match=said):
        replace(SMOKE, **settings)


@pytest.mark.parametrize("profile", ["smoke", "cpu", "gpu", "paper"])
def test_the_lesion_network_before_it_is_the_courses_best(profile):
    config = experiment("grade-from-findings", profile, seed=3)
    assert first_config(config) == experiment("lesions-best", profile, seed=3)
    with pytest.raises(MTLError, match="builds on a network"):
        check_processes(config, None, 2, 1)


@pytest.fixture(scope="module")
def run(synthetic_root, tmp_path_factory):
    copy = prepare(synthetic_root, SMOKE.copy_size, progress=False)
    return copy, fit(SMOKE, copy, tmp_path_factory.mktemp("findings") / "run", progress=False)


def test_a_run_looks_once_at_each_training_photograph(run):
    copy, result = run
    network, config = load_model(result.checkpoint(), "cpu")
    assert config == load_config(result.checkpoint()) == SMOKE
    grades = copy.grades[SMOKE.parts(copy.table).rows("train", "grading")]
    single = np.bincount(grades)[grades] == 1  # the little set has one photograph of some grade
    assert sorted(network.known["grade"].tolist()) == sorted(grades[~single].tolist())
    lesions, _ = load_model(result.first, "cpu")
    weights = network.lesion_network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in lesions.state_dict().items())
    whole = torch.rand(1, 3, 64, 64)
    assert torch.equal(network.lesion_network(whole)["segmentation"], lesions(whole)["segmentation"])


def test_a_run_is_judged_by_the_classifiers_it_was_validated_with(run):
    copy, result = run
    row, again = result.history.iloc[0], evaluate(result.checkpoint(), copy, "val").compute()
    for name in ("grading/accuracy", "grading/auc/mean", "grading/loss"):
        assert row[f"val/{name}"] == pytest.approx(again[name], rel=1e-6), name
    record = make_record(result, copy)
    assert record["config"] == asdict(SMOKE) and record["epochs"] == 1
    assert record["grading/accuracy"] == evaluate(result.checkpoint(), copy).compute()["grading/accuracy"]


def test_a_finished_run_is_not_made_again(run, monkeypatch):
    copy, result = run
    monkeypatch.setattr(fitting, "_trainer", None)
    again = fit(SMOKE, copy, result.folder, resume=True, progress=False, first=result.first)
    assert len(again.history) == 1


def test_a_quarter_needs_more_than_four_pixels():
    picture = np.zeros((1, 10, 10))
    picture[0, 0, :4] = 0.2
    assert dict(zip(finding_names(["EX"]), findings(picture)))["EX quarters"] == 0
    picture[0, 1, 0] = 0.2
    assert dict(zip(finding_names(["EX"]), findings(picture)))["EX quarters"] == 1


def test_appearance_is_mean_deviation_and_maximum_and_the_forest_has_the_seed():
    name = experiment("grade-from-findings", "smoke").encoder_name
    grader = FindingsGrader(name, None, FOUR_LESIONS, seed=7).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = [level.numpy().reshape(2, level.shape[1], -1) for level in grader.features(image)[2:]]
    expected = [each for level in maps for each in (level.mean(2), level.std(2, ddof=1), level.max(2))]
    found = grader.describe(image)["appearance"].numpy()
    assert np.allclose(found, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)
    rng = np.random.default_rng(0)
    described = {key: torch.from_numpy(rng.normal(size=(8, 4))).float() for key in OPINIONS}
    grader.learn(described, torch.tensor([0, 1] * 4))
    assert grader.classifiers["findings"].random_state == 7
