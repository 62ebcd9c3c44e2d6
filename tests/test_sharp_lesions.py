"""What the course's best lesions are made of: crops around lesions, Dice in the loss, averaged weights,
mirror images; and that a record's masks can be scored again.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from mtl_utils.data.dataset import FundusDataset
from mtl_utils.data.patches import LesionCrops
from mtl_utils.data.prepare import lesion_bit, unpack
from mtl_utils.data.splits import split
from mtl_utils.errors import MTLError
from mtl_utils.experiments import experiment
from mtl_utils.label_spaces import FOUR_LESIONS, LESION_SPACE
from mtl_utils.lesions import DISEASE_LESIONS, LESIONS
from mtl_utils.losses import segmentation_loss
from mtl_utils.metrics import SegmentationMetrics
from mtl_utils.records import make_record, segmentation_scores
from mtl_utils.systems.base import MeanOfNetworks, judged_logits
from mtl_utils.training import FundusData, fit, fitting, load_model, load_state


def eye_with(**marks: tuple[slice, slice]) -> np.ndarray:
    packed = np.zeros((64, 64), np.uint8)
    for lesion, place in marks.items():
        packed[place] |= lesion_bit(lesion)
    return packed


# ---------------------------------------- crops
def test_every_kind_of_lesion_is_cropped_as_often_whatever_its_size():
    packed = eye_with(MA=(slice(2, 3), slice(60, 61)), EX=(slice(30, 60), slice(0, 30)))
    crops, rng = LesionCrops(8, share=1.0), np.random.default_rng(0)
    seen = {"MA": 0, "EX": 0}
    for _ in range(400):
        inside = unpack(packed[crops.window(packed, rng)]).any(axis=(1, 2))
        found = [lesion for lesion, there in zip(LESIONS, inside, strict=True) if there]
        assert len(found) == 1  # they lie too far apart for one window
        seen[found[0]] += 1
    assert chisquare([*seen.values()]).pvalue > 0.01  # by pixels it would be 1 to 900


def test_crops_lie_anywhere_where_no_lesion_is_asked_for_or_there_is_none():
    crops, rng = LesionCrops(16, share=1.0), np.random.default_rng(0)
    disc_only = eye_with(OD=(slice(30, 40), slice(30, 40)))
    corners = {
        (rows.start, columns.start) for rows, columns in (crops.window(disc_only, rng) for _ in range(300))
    }
    assert max(map(max, corners)) > 40 and min(map(min, corners)) < 8
    marked = eye_with(MA=(slice(0, 1), slice(0, 1)))
    anywhere = [LesionCrops(16, share=0.0).window(marked, rng) for _ in range(200)]
    assert sum(rows.start == columns.start == 0 for rows, columns in anywhere) < 10


def test_a_lesion_lies_anywhere_in_its_crop_and_the_crop_in_the_picture():
    packed, rng = eye_with(HE=(slice(32, 33), slice(32, 33))), np.random.default_rng(1)
    windows = [LesionCrops(16, share=1.0).window(packed, rng) for _ in range(300)]
    places = np.array([(32 - rows.start, 32 - columns.start) for rows, columns in windows])
    assert places.min() == 0 and places.max() == 15 and np.ptp(places.mean(axis=0)) < 1.5
    corner = eye_with(HE=(slice(0, 1), slice(63, 64)))
    for _ in range(50):
        rows, columns = LesionCrops(16, share=1.0).window(corner, rng)
        assert (rows.start, rows.stop, columns.start, columns.stop) == (0, 16, 48, 64)


def test_a_cropped_sample_repeats_by_seed_and_its_mask_is_that_of_its_picture(synthetic_copy):
    rows = np.flatnonzero(synthetic_copy.table.part == "A")

    def samples(seed):
        return [*FundusDataset(synthetic_copy, rows, None, seed, FOUR_LESIONS, LesionCrops(32, share=1.0))]

    once, again, other = samples(3), samples(3), samples(4)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(once, other, strict=True))
    for sample in once:
        row = int(sample["row"])
        whole = np.moveaxis(synthetic_copy.image(row), -1, 0).astype(np.float32) / 255
        windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32), axis=(1, 2))
        (places,) = [np.argwhere((windows == sample["image"].numpy()[:, None, None]).all(axis=(0, 3, 4)))]
        masks = synthetic_copy.mask(row)[: len(DISEASE_LESIONS)]
        cut = [masks[:, top : top + 32, left : left + 32] for top, left in places]
        assert any((sample["mask"].numpy() == each).all() for each in cut)


def test_lesion_crops_of_a_run_have_the_size_that_its_network_gets(synthetic_copy):
    config = experiment("lesions-best", "smoke")
    data = FundusData(config, synthetic_copy, config.parts(synthetic_copy.table))
    batch = next(iter(data._train_loader("segmentation", seed=0)))
    assert batch["image"].shape[1:] == (3, config.crop_size, config.crop_size)
    assert batch["mask"].shape[1:] == (4, config.crop_size, config.crop_size)
    assert batch["mask"].any() and set(batch["mask"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"system": "shared-encoder", "tasks": ("grading",)}, "a crop has no grade"),
        ({"mask_loss": "focal"}, "no mask_loss 'focal'"),
        ({"label_space": "separate"}, "no mask_loss but 'bce'"),
        ({"recipe": "report"}, "lesion_crops belong to the recipe"),
        ({"flips": False, "turns": True}, "turns go with flips"),
        ({"members": 0}, "members, one or more"),
        ({"lesion_crops": 50.0}, "give 0 to 1"),
        ({"batch_size": 0}, "batch_size 0 is below 1"),
        ({"chosen": "best"}, "no chosen 'best'. There are: best-accuracy, best-loss, last"),
        ({"recipe": "mine"}, "no recipe 'mine'"),
        ({"tasks": ("masks",)}, "no task 'masks'"),
        ({"recipe": "report", "lesion_crops": 0.0, "tasks": ("isr",)}, "has one task, segmentation"),
        ({"first_tasks": ("grading",)}, "for given masks alone"),
        ({"recipe": "pldmlt", "lesion_crops": 0.0}, "the recipe 'pldmlt' cuts by itself"),
        ({"label_space": "red-yellow", "mask_loss": "bce"}, "nobody can tell what is outside"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, said):
    with pytest.raises(MTLError, match=said):
        replace(experiment("lesions-best", "smoke"), **changes)


@pytest.mark.parametrize(
    "name", ["mtunet-b", "pldmlt", "deepmt-dr", "lesions-at-1-2", "balance-pcgrad", "grade-from-findings"]
)
def test_members_are_plain_networks(name):
    for changes in ({"members": 2}, {"draws": 1}):
        with pytest.raises(MTLError, match="members, one or more, build on nothing"):
            replace(experiment(name, "smoke"), **changes)


def test_the_shared_encoder_draws_all_five_lesions():
    with pytest.raises(MTLError, match="'shared-encoder' draws the label space 'lesions' alone"):
        replace(experiment("shared-lambda-0.1", "smoke"), label_space="fused")


# ---------------------------------------- the loss
def test_dice_in_the_loss_by_hand():
    mask = torch.zeros(1, 5, 2, 2)
    mask[0, 0, 0] = 1  # two of four pixels are MA; the other lesions are absent and have no Dice
    logits = torch.full((1, 5, 2, 2), -200.0)
    logits[0, 0] = torch.tensor([[0.0, 0.0], [-200.0, -200.0]])
    has_mask = torch.tensor([True])
    bce = segmentation_loss(logits, mask, has_mask)
    assert bce.item() == pytest.approx(2 * np.log(2) / 20, rel=1e-5)
    both = segmentation_loss(logits, mask, has_mask, mask_loss="bce+dice")
    # MA: p sums to 1, the truth to 2, their product to 1: Dice 2 / 3, loss 1 / 3; mean over five lesions
    assert (both - bce).item() == pytest.approx(1 / 3 / 5, rel=1e-4)


# ---------------------------------------- mirror images
class LeftLeaning(nn.Module):
    """Marks the left column, and grades by its brightness: it answers mirror images differently."""

    def forward(self, image, tasks):
        drawn = torch.zeros(len(image), 1, *image.shape[2:])
        drawn[..., 0] = image[:, 0, :, 0].unsqueeze(1)
        return {"segmentation": drawn, "grading": image[:, 0, :, 0].sum(dim=1, keepdim=True)}


def test_mirror_images_are_averaged_with_masks_turned_back():
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0] = torch.tensor([[4.0, 8.0], [0.0, 0.0]])
    network = LeftLeaning()
    drawn = judged_logits(network, image, "segmentation", flips=True)
    # Twice of four times each column is the left one: its pixels come back where they were, at half weight.
    assert torch.equal(drawn[0, 0], torch.tensor([[2.0, 4.0], [0.0, 0.0]]))
    assert judged_logits(network, image, "grading", flips=True).item() == 6  # mean of 4, 8, 4, 8
    assert judged_logits(network, image, "grading").item() == 4


def test_quarter_turns_are_averaged_with_masks_turned_back():
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0] = torch.tensor([[4.0, 8.0], [0.0, 0.0]])
    network = LeftLeaning()
    drawn = judged_logits(network, image, "segmentation", flips=True, turns=True)
    # Of the eight views each pixel stands in the left column in four.
    assert torch.equal(drawn[0, 0], torch.tensor([[2.0, 4.0], [0.0, 0.0]]))
    # The four turned ones have the row of 4 and 8 at the left twice and the empty one twice: 12, 0, 12, 0.
    assert judged_logits(network, image, "grading", flips=True, turns=True).item() == 6
    # One quarter turn alone, against the clock: then 8 and 4 are at the left.
    drawn = judged_logits(network, image, "segmentation", turns=True)
    assert torch.equal(drawn[0, 0], torch.tensor([[4.0, 4.0], [0.0, 0.0]]))
    assert judged_logits(network, image, "grading", turns=True).item() == 8  # mean of 4 and 12


def test_mirror_images_are_for_the_finished_network(synthetic_copy, tmp_path):
    """Flips and turns change what the test says, not what was learned."""
    plain = replace(experiment("lesions-step-3", "smoke"), chosen="last", epochs=1)
    runs = [
        fit(replace(plain, flips=flips, turns=turns), synthetic_copy, tmp_path / f"{number}", progress=False)
        for number, (flips, turns) in enumerate(((False, False), (True, False), (True, True)))
    ]
    first, *others = (load_model(run.checkpoint())[0].state_dict() for run in runs)
    assert all(torch.equal(first[key], other[key]) for other in others for key in first)
    assert len({tuple(run.history["val/loss"]) for run in runs}) == 1
    assert len({run.scores(synthetic_copy).loss("segmentation") for run in runs}) == 3


# ---------------------------------------- several networks
def test_networks_that_answer_together_give_the_mean_of_their_logits():
    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, image, tasks=None):
            return {"grading": torch.tensor([[self.value, 0.0]])}

    together = MeanOfNetworks([Constant(1.0), Constant(4.0)])
    assert together(torch.zeros(1, 3, 2, 2), tasks=("grading",))["grading"].tolist() == [[2.5, 0.0]]


def test_means_are_taken_in_float32_whatever_the_network_computes_in():
    class Halves(nn.Module):
        """Two answers in turn that bfloat16 knows, and whose mean it does not."""

        def __init__(self):
            super().__init__()
            self.asked = 0

        def forward(self, image, tasks=None):
            self.asked += 1
            return {"grading": torch.tensor([[1.0 + self.asked % 2 / 128]], dtype=torch.bfloat16)}

    image = torch.zeros(1, 3, 2, 2)
    assert judged_logits(Halves(), image, "grading", flips=True).item() == 1 + 1 / 256
    ahead = Halves()
    ahead.asked = 1
    assert MeanOfNetworks([Halves(), ahead])(image)["grading"].item() == 1 + 1 / 256


def test_members_differ_by_their_draws_alone_and_are_kept_as_one(synthetic_copy, tmp_path, monkeypatch):
    config = experiment("lesions-mean", "smoke", epochs=1)
    run = fit(config, synthetic_copy, tmp_path / "run", progress=False)
    plain = replace(config, members=1)
    parts = [config.member(number).parts(synthetic_copy.table).roles.tolist() for number in (0, 1)]
    assert parts[0] == parts[1]  # one split
    alone = fit(plain, synthetic_copy, tmp_path / "alone", progress=False)  # seed 0, as the first member
    members = [load_model(run.folder / f"member-{number}" / "last.ckpt", "cpu")[0] for number in (0, 1)]
    state = load_model(alone.checkpoint(), "cpu")[0].state_dict()
    assert all(torch.equal(members[0].state_dict()[key], state[key]) for key in state)
    assert any(not torch.equal(members[1].state_dict()[key], state[key]) for key in state)

    together, kept = load_model(run.checkpoint(), "cpu")
    assert kept == config
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        answers = [network(image)["segmentation"] for network in (*members, together)]
    torch.testing.assert_close((answers[0] + answers[1]) / 2, answers[2])
    losses = [pd.DataFrame(load_state(run.folder / f"member-{n}" / "last.ckpt")["history"]) for n in (0, 1)]
    assert run.history["val/loss"][0] == pytest.approx(np.mean([each["val/loss"][0] for each in losses]))
    assert run.history.seconds[0] == pytest.approx(sum(each.seconds[0] for each in losses))
    record = make_record(run, synthetic_copy)
    assert record["segmentation/aupr/mean"] > 0
    assert record["checkpoint"] == "last of each network"

    for number in (0, 1):  # finished, it needs them no more
        shutil.rmtree(run.folder / f"member-{number}")
    monkeypatch.setattr(fitting, "build_network", None)
    again = fit(config, synthetic_copy, run.folder, resume=True, progress=False)
    assert again.history.equals(run.history)
    with pytest.raises(MTLError, match="--resume"):
        fit(config, synthetic_copy, run.folder, progress=False)


def test_runs_of_two_seeds_share_no_network():
    config = experiment("lesions-mean", "smoke")
    draws = [replace(config, seed=seed).member(number).draws_seed for seed in range(3) for number in (0, 1)]
    assert draws == [0, 1, 2, 3, 4, 5]
    largest = replace(config, seed=2**32 - 1)
    assert {largest.member(number).draws_seed < 2**32 for number in (0, 1)} == {True}


def test_rounds_show_each_photograph_so_many_times_as_often(synthetic_copy):
    config, parts = experiment("lesions-long", "cpu"), split(synthetic_copy.table)
    drawn, graded = (parts.rows("train", task) for task in ("segmentation", "grading"))
    data = FundusData(config, synthetic_copy, parts)
    rows = data._training_rows("segmentation", np.random.default_rng(0))
    once = FundusData(replace(config, rounds=1), synthetic_copy, parts)
    assert len(rows) == 4 * len(once._training_rows("segmentation", np.random.default_rng(0)))
    assert len(rows) == 4 * max(len(drawn), len(graded)) and set(rows) == set(drawn)
    assert np.ptp(np.bincount(rows)[sorted(drawn)]) <= 1


# ---------------------------------------- averaged weights
def test_what_is_kept_and_judged_is_the_average_of_the_weights(synthetic_copy, tmp_path):
    config = replace(experiment("lesions-step-3", "smoke"), epochs=1, steps_per_epoch=2)
    ends, average = [], 0.9
    for steps, ema in ((1, None), (2, None), (2, average)):
        run = fit(
            replace(config, steps_per_epoch=steps, ema=ema),
            synthetic_copy,
            tmp_path / f"{steps}-{ema}",
            progress=False,
        )
        for which in ("last", "best-loss"):
            ends.append(load_model(run.checkpoint(which))[0].state_dict())
    first, _, second, _, *kept = ends
    key = next(name for name in first if name.endswith("conv_stem.weight"))
    expected = average * first[key] + (1 - average) * second[key]  # the first step is taken as it is
    for averaged in kept:
        torch.testing.assert_close(averaged[key], expected)
    assert not torch.equal(kept[0][key], second[key])


def test_a_killed_run_with_averaged_weights_resumes_to_the_same(synthetic_copy, tmp_path):
    config = experiment("lesions-best", "smoke")
    whole = fit(config, synthetic_copy, tmp_path / "whole", progress=False)
    # What a kill after the first epoch leaves: a run of one epoch, whose checkpoint knows of two.
    last = fit(replace(config, epochs=1), synthetic_copy, tmp_path / "part", progress=False).checkpoint(
        "last"
    )
    state = torch.load(last, weights_only=True)
    state["hyper_parameters"]["config"]["epochs"] = config.epochs
    torch.save(state, last)
    resumed = fit(config, synthetic_copy, tmp_path / "part", resume=True, progress=False)
    a, b = (load_model(run.checkpoint("last"))[0].state_dict() for run in (whole, resumed))
    assert all(torch.equal(a[key], b[key]) for key in a)


# ---------------------------------------- scored again
def random_masks(photographs: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    masks = (torch.rand(photographs, 5, 40, 40, generator=draw) < 0.1).float()
    noise = torch.rand(photographs, 5, 40, 40, generator=draw)
    return (0.6 * noise + 0.4 * masks).clamp(0, 1), masks


def test_packed_masks_are_scored_as_the_whole_ones():
    metrics = SegmentationMetrics()
    metrics.update(*random_masks())
    packed = metrics.pack()
    again = SegmentationMetrics.unpack(packed)
    whole, scored = metrics.compute(), again.compute()
    for name, value in whole.items():
        exact = "aupr" not in name and "/auc" not in name
        assert scored[name] == pytest.approx(value, abs=1e-12 if exact else 0.003), name
    assert again.per_photograph(threshold=0.3).equals(metrics.per_photograph(threshold=0.3))
    assert len(packed["counts"]) < 8000 and again.space is LESION_SPACE
    with pytest.raises(MTLError, match="divisor"):
        metrics.pack(steps=24)
    with pytest.raises(MTLError, match="divisor"):
        SegmentationMetrics(steps=0).pack()


def test_an_older_record_has_pixels_by_hundredths():
    metrics = SegmentationMetrics(steps=0)
    metrics.update(*random_masks())
    packed = metrics.pack(steps=0)
    assert packed["shape"][-1] == 100
    del packed["steps"]
    assert SegmentationMetrics.unpack(packed).compute() == metrics.compute()


def test_a_record_can_be_scored_again_and_names_what_leaked(synthetic_copy, tmp_path):
    config = replace(experiment("shared-lambda-0.1", "smoke"), epochs=1)
    table = synthetic_copy.table
    twice = table.photo[table.split == "train"]  # the synthetic set has such pairs, as IDRiD does
    leaks = {
        task: table.name[(table.part == part) & (table.split == "test") & table.photo.isin(twice)].tolist()
        for task, part in (("grading", "B"), ("segmentation", "A"))
    }
    assert all(leaks.values())
    found = {}
    for protocol in ("paper", "clean"):
        run = fit(replace(config, protocol=protocol), synthetic_copy, tmp_path / protocol, progress=False)
        record = found[protocol] = make_record(run, synthetic_copy)
        scores = segmentation_scores(record)
        assert scores.compute()["segmentation/dice/OD"] == pytest.approx(record["segmentation/dice/OD"])
        history = run.history["val/accuracy"]
        assert record["validation"]["grading/accuracy"] == history[history.argmax()]
    assert found["paper"]["leaked"] == leaks
    assert found["clean"]["leaked"] == {"grading": [], "segmentation": []}
    masks = experiment("lesions-step-3", "smoke", protocol="paper")  # sees part A alone
    run = fit(replace(masks, epochs=1), synthetic_copy, tmp_path / "masks", progress=False)
    assert make_record(run, synthetic_copy)["leaked"] == {"segmentation": []}
    assert segmentation_scores({}) is None


def test_a_window_reaches_the_last_row_and_column():
    rng, nothing = np.random.default_rng(0), np.zeros((8, 8), np.uint8)
    corners = [LesionCrops(7, share=0.0).window(nothing, rng) for _ in range(50)]
    assert {(rows.start, columns.start) for rows, columns in corners} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_share_of_crops_with_a_lesion_is_the_one_asked_for():
    packed, rng = np.zeros((64, 64), np.uint8), np.random.default_rng(0)
    packed[32, 32] = lesion_bit("MA")
    found = np.mean([packed[LesionCrops(8, share=0.25).window(packed, rng)].any() for _ in range(2000)])
    by_chance = (8 / 57) ** 2  # of the other crops some meet it
    assert found == pytest.approx(0.25 + 0.75 * by_chance, abs=0.03)
