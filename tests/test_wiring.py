"""Does each setting of a run arrive where it acts? Two equal runs would be equal without it, too."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mtl_utils.data.splits import split
from mtl_utils.experiments import experiment
from mtl_utils.records import _learned_from
from mtl_utils.training import FundusData, MultiTaskModule, build_network
from mtl_utils.training.scores import Scores


def test_a_step_minimises_the_report_s_equation_1():
    module = MultiTaskModule(experiment("shared-lambda-10", "smoke"), nn.Linear(1, 1))
    module.losses = lambda batch: {"grading": torch.tensor(1.5), "segmentation": torch.tensor(0.02)}
    assert module.training_step({}, 0).item() == pytest.approx(10 * 1.5 + 0.02)


def test_the_validation_loss_weighs_the_tasks_as_the_training_loss_does():
    module = MultiTaskModule(experiment("shared-lambda-10", "smoke"), nn.Linear(1, 1))
    module._trainer = SimpleNamespace(world_size=1, current_epoch=0)
    module._started, logged = 0.0, {}
    module.log_dict = lambda found, **_: logged.update(found)
    module.scores = SimpleNamespace(
        loss={"grading": 1.5, "segmentation": 0.02}.get, compute=lambda: {"grading/accuracy": 0.5}
    )
    module.on_validation_epoch_end()
    assert logged["val/loss"] == pytest.approx(10 * 1.5 + 0.02)
    assert module.history[0]["val/loss"] == pytest.approx(10 * 1.5 + 0.02)


def test_the_learning_rate_falls_by_its_factor_each_epoch():
    config = replace(experiment("grading-only", "smoke"), learning_rate=0.008, lr_gamma=0.5)
    found = MultiTaskModule(config, nn.Linear(1, 1)).configure_optimizers()
    rates = []
    for _ in range(3):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"].step()
    assert rates == pytest.approx([0.008, 0.004, 0.002])


def test_a_run_without_augmentation_sees_photographs_as_they_are(synthetic_copy):
    for name, plain in (("shared-lambda-0.1-noaug", True), ("shared-lambda-0.1", False)):
        config = experiment(name, "smoke")
        data = FundusData(config, synthetic_copy, config.parts(synthetic_copy.table))
        for task in config.tasks:
            steps = {type(step).__name__ for step in data._train_loader(task, 0).dataset.transform}
            assert (steps <= {"Resize", "RandomCrop"}) == plain


def test_each_epoch_has_its_own_order_and_augmentation(synthetic_copy):
    config = experiment("grading-only", "smoke")
    data = FundusData(config, synthetic_copy, config.parts(synthetic_copy.table))
    epochs = []
    for epoch in (0, 1, 0):
        data.trainer = SimpleNamespace(current_epoch=epoch, global_rank=0, world_size=1)
        epochs.append(data.train_dataloader().iterables["grading"].dataset)
    first, second, again = (each.rows.tolist() for each in epochs)
    assert first == again != second and sorted(first) == sorted(second)
    assert first != sorted(first)  # not the table's order
    assert epochs[0].seed == epochs[2].seed != epochs[1].seed


def test_a_mean_loss_weighs_a_short_last_batch_less():
    scores = Scores(("grading",))
    for logits, grades in ((torch.zeros(3, 5), [0, 1, 2]), (torch.tensor([[2.0, 0, 0, 0, 0]]), [0])):
        batch = {"grade": torch.tensor(grades), "row": torch.arange(len(grades))}
        scores.update("grading", logits, batch)
    sure = -log(exp(2) / (exp(2) + 4))
    assert scores.loss("grading") == pytest.approx((3 * log(5) + sure) / 4, rel=1e-6)


def test_a_run_has_the_dropout_that_its_settings_name():
    config = experiment("grading-only", "smoke", encoder_name="resnet18", encoder_weights=None)
    head = build_network(replace(config, dropout=0.35)).grading_head
    assert [layer.p for layer in head.modules() if isinstance(layer, nn.Dropout)] == [0.35]


def test_a_run_learns_and_judges_by_the_mask_loss_that_its_settings_name():
    config = experiment("lesions-best", "smoke")
    assert config.mask_loss == "bce+dice"
    module = MultiTaskModule(config, nn.Linear(1, 1))
    mask = torch.zeros(1, 4, 2, 2)
    mask[0, 0, 0] = 1
    logits = torch.full((1, 4, 2, 2), -200.0)
    logits[0, 0, 0] = 0.0
    batch = {"mask": mask, "has_mask": torch.tensor([True]), "row": torch.tensor([0])}
    # two pixels at one half: 2 ln 2 / 16; Dice of MA 2 / 3, so 1 / 3 over four lesions
    expected = 2 * log(2) / 16 + 1 / 12
    assert module._loss("segmentation", logits, batch).item() == pytest.approx(expected, rel=1e-4)
    module.scores.update("segmentation", logits, batch)
    assert module.scores.loss("segmentation") == pytest.approx(expected, rel=1e-4)


def test_windows_of_a_run_are_its_settings_and_grow_with_the_working_copy(synthetic_copy):
    config = experiment("lesions-best", "smoke", segmentation_size=64, crop_size=32, lesion_crops=0.7)
    data = FundusData(config, synthetic_copy, config.parts(synthetic_copy.table))
    crops = data._train_loader("segmentation", 0).dataset.crops
    # 1.2 x 32 px of a picture of 64 px are 76.8 px of the working copy's 128
    assert (synthetic_copy.size, crops.side, crops.share) == (128, 77, 0.7)


@pytest.mark.parametrize("name", ["pldmlt", "grade-from-findings"])
def test_what_networks_before_it_learned_from_counts_as_seen(name, synthetic_copy):
    table = synthetic_copy.table
    config = experiment(name, "smoke", protocol="paper")
    first = "clean-folds" if name == "pldmlt" else "paper"  # stage 1 has a protocol of its own
    masks, grades = split(table, "paper"), split(table, first)
    expected = {*masks.rows("train", "segmentation"), *grades.rows("train", "grading")}
    assert {*_learned_from(config, table)} == expected
