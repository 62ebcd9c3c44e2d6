"""How DeepMT-DR learns: which loss teaches which subnet, and what one stage hands to the next."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from mtl_utils.data.fov import inside_field_of_view
from mtl_utils.errors import MTLError
from mtl_utils.experiments import experiment
from mtl_utils.explain import gmsv
from mtl_utils.lesions import DISEASE_LESIONS
from mtl_utils.paper_tables import PAPER_TABLES
from mtl_utils.predict import predict_photograph, save_prediction
from mtl_utils.records import beside
from mtl_utils.systems.deepmt_dr import DeepMTDR, Hierarchy, asked, reduce
from mtl_utils.systems.deepmt_dr_losses import (
    ISRWeights,
    classification_aware_loss,
    distance_weighted_loss,
    evidence_lesion_loss,
    image_loss,
    lesion_dice_loss,
    total_variation_loss,
)
from mtl_utils.training import evidence_metrics, evidence_scores, first_config
from mtl_utils.training.hierarchy import HierarchyModule

ALL = ("grading", "segmentation", "isr")
ISR_TERMS = {"image": "isr", "smooth": "isr", "seg_aware": "isr"}
STAGE_1 = ISR_TERMS | {"lesions": "lesions", "grading": "grading"}
STAGE_2 = STAGE_1 | {"cls_aware": "isr", "lesions_by_evidence": "lesions"}


def module(tasks=ALL, **changes) -> HierarchyModule:
    """Untrained, and no weight is zero: what starts there lets no gradient through."""
    torch.manual_seed(0)
    settings = replace(Hierarchy(isr_channels=8, lesion_width=6), **changes)
    config = experiment("deepmt-dr", "smoke", encoder_name="resnet18", encoder_weights=None)
    config = replace(config, tasks=tasks, hierarchy=settings)
    network = DeepMTDR("resnet18", None, tasks, settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return HierarchyModule(config, network).train()


def batch(tasks=("grading", "segmentation")) -> dict:
    generator = torch.Generator().manual_seed(1)
    photographs = {
        "image": torch.rand(2, 3, 64, 64, generator=generator),
        "mask": (torch.rand(2, 4, 64, 64, generator=generator) > 0.9).float(),
        "grade": torch.tensor([1, 3]),
    }
    return {task: photographs | {"has_mask": torch.full((2,), task != "grading")} for task in tasks}


def taught(learner: HierarchyModule, tasks=("grading", "segmentation")) -> dict[str, str]:
    """loss -> the subnets whose weights get a gradient from it."""
    losses, found = learner.losses(batch(tasks)), {}
    for name, loss in losses.items():
        learner.zero_grad()
        loss.backward(retain_graph=True)
        found[name] = "+".join(
            part
            for part, subnet in learner.network.named_children()
            if any(each.grad is not None and each.grad.any() for each in subnet.parameters())
        )
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stage": 1}, STAGE_1),
        ({}, STAGE_2),
        ({"seg_aware": False, "cls_aware": False}, {k: v for k, v in STAGE_2.items() if "aware" not in k}),
        ({"frozen": ("isr",)}, {k: v for k, v in STAGE_2.items() if v != "isr"}),
        ({"frozen": ("segmentation",)}, {k: v for k, v in STAGE_2.items() if v != "lesions"}),
    ],
)
def test_each_loss_teaches_its_own_subnet(changes, expected):
    assert taught(module(**changes)) == expected


def test_each_loss_is_its_equation_with_table_1s_weight():
    learner = module(threshold=0.4, temperature=0.3, plus_one=False).eval()
    network, photographs = learner.network, batch()
    photographs["grading"]["image"] = torch.rand(3, 3, 64, 64)
    photographs["grading"]["has_mask"] = torch.tensor([True, False, False])
    original, drawn = (photographs[task]["image"] for task in ("grading", "segmentation"))
    with torch.no_grad():
        restored, again = (network.isr(reduce(picture, 4)) for picture in (original, drawn))
        maps = network.maps(restored)
        logits = network.grading(restored, maps)
    photographs["grading"]["grade"] = (logits.argmax(dim=1) + 2) % 5  # what is right would have weight 0
    looks = network.evidence(original)
    expected = {
        "image": (image_loss(restored, original) + image_loss(again, drawn)) / 2,
        "smooth": 1e-6 * (total_variation_loss(restored) + total_variation_loss(again)) / 2,
        "seg_aware": F.mse_loss(network.maps(again), network.maps(drawn)),
        "cls_aware": 10 * classification_aware_loss(network.evidence(restored), looks, 0.4, 0.3),
        "lesions": lesion_dice_loss(network.maps(again), photographs["segmentation"]["mask"]),
        # The first of the graded photographs has masks, the other two have none.
        "lesions_by_evidence": evidence_lesion_loss(maps[1:], looks[1:], 0.4),
        "grading": distance_weighted_loss(logits, photographs["grading"]["grade"], plus_one=False),
    }
    found = {name: loss.item() for name, loss in learner.losses(photographs).items()}
    assert found == pytest.approx({name: loss.item() for name, loss in expected.items()}, rel=1e-3)
    assert min(found.values()) > 0
    photographs["grading"]["has_mask"][:] = True
    assert "lesions_by_evidence" not in learner.losses(photographs)


def test_what_is_removed_teaches_nothing():
    without_isr = {"lesions": "lesions", "lesions_by_evidence": "lesions", "grading": "grading"}
    assert taught(module(("grading", "segmentation"), enlarge="bicubic")) == without_isr
    without_lesions = {"image": "isr", "smooth": "isr", "cls_aware": "isr", "grading": "grading"}
    assert taught(module(("grading", "isr")), ("grading",)) == without_lesions


def test_who_is_asked_does_not_learn():
    network = module().network
    network.lesions.bottom.eval()  # a mode of its own, to be found again
    modes = [part.training for part in network.modules()]
    before = {name: value.clone() for name, value in network.lesions.state_dict().items()}
    picture = torch.rand(2, 3, 64, 64, requires_grad=True)
    with asked(network.lesions):
        network.maps(picture).sum().backward()
    assert picture.grad.any()
    assert all(each.grad is None and each.requires_grad for each in network.lesions.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.lesions.state_dict().items())
    assert [part.training for part in network.modules()] == modes


def test_reduce_is_pillows_bicubic():
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 2)
    theirs = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    ours = reduce(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, 4)
    assert np.abs(255 * ours[0].permute(1, 2, 0).numpy() - theirs).max() <= 1
    assert reduce(torch.full((1, 3, 32, 32), 0.3), 4).numpy() == pytest.approx(0.3, abs=1e-6)
    assert reduce(ours, 1) is ours


def test_the_answers_follow_from_the_small_photograph():
    network = module().network.eval()
    one, other = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        far = network(other)
        network.small = lambda photograph: reduce(one, 4)  # whatever is shown
        for task, answer in network(other).items():
            assert not torch.equal(answer, far[task])
            assert torch.equal(answer, network(one)[task])


def unseen(side: int, scale: int) -> torch.Tensor:
    """A pattern (side, side) in [-1, 1] that `reduce` removes: in the null space of its work on columns."""
    rows = torch.eye(side).view(side, 1, side, 1).expand(-1, 3, -1, side)
    effect = (reduce(0.5 + 0.4 * rows, scale)[:, 0, :, 0].T.double() - 0.5) / 0.4
    removed = torch.linalg.svd(effect).Vh[side // scale :]
    pattern = removed.T @ torch.randn(len(removed), side, dtype=torch.float64)
    return (pattern / pattern.abs().max()).float()


def test_photographs_that_look_alike_when_small_get_the_same_answers():
    network = module().network.eval()
    one, far = 0.3 + 0.4 * torch.rand(2, 1, 3, 64, 64)
    other = one + 0.3 * unseen(64, 4)
    assert (one - other).abs().max() > 0.29 and (one - other).abs().mean() > 0.02
    assert torch.allclose(network.small(one), network.small(other), atol=1e-6)
    with torch.no_grad():
        answers, same, different = map(network, (one, other, far))
    for task in ALL:
        apart = (answers[task] - different[task]).abs().max()
        assert (answers[task] - same[task]).abs().max() < 1e-3 * apart


def test_scale_1_is_the_photograph_itself():
    network = module(("grading", "segmentation"), enlarge="bicubic", scale=1).network.eval()
    photograph = torch.rand(1, 3, 64, 64)
    assert network.enlarged(network.small(photograph)) is photograph
    with torch.no_grad():
        answers, maps = network(photograph), network.lesions(photograph)
        assert torch.equal(answers["segmentation"], maps)
        assert torch.equal(answers["grading"], network.grading(photograph, maps.sigmoid()))


def test_bicubic_alone_stays_in_range():
    network = module(("grading", "segmentation"), enlarge="bicubic").network
    squares = (torch.rand(1, 3, 8, 8) > 0.5).float()
    photograph = F.interpolate(squares, scale_factor=8, mode="nearest")
    small = network.small(photograph)
    simple = F.interpolate(small, scale_factor=4, mode="bicubic", align_corners=False)
    assert small.shape == (1, 3, 16, 16) and small.min() >= 0 and small.max() <= 1
    enlarged = network.enlarged((small > 0.5).float())
    assert (enlarged.min(), enlarged.max()) == (0, 1)  # bicubic swings above and below
    assert torch.allclose(network.enlarged(small), simple.clamp(0, 1))


def test_without_enlarging_any_size_is_graded():
    odd = torch.rand(1, 3, 40, 72)  # no multiple of 16
    small_only = module(("grading",), enlarge="none").network.eval()
    small = small_only.small(odd)
    assert small.shape == (1, 3, 10, 18) and small_only.enlarged(small) is small
    with torch.no_grad():
        assert torch.equal(small_only(odd)["grading"], small_only.grading(small))
    assert small_only.evidence(small).shape == (1, 1, 10, 18)
    with pytest.raises(RuntimeError, match=r"[Ss]izes"):
        module().network(odd)


def test_only_what_is_asked_for_is_answered():
    network = module().network.eval()
    photograph = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = network(photograph)
        for task in ALL:
            (answer,) = network(photograph, tasks=(task,)).items()
            assert answer[0] == task and torch.equal(answer[1], whole[task])


@pytest.mark.parametrize(
    ("tasks", "settings"),
    [(("isr",), {"enlarge": "none"}), (ALL, {"enlarge": "bicubic"}), (("grading",), {}), ((), {})],
)
def test_settings_that_do_not_fit_are_refused(tasks, settings):
    with pytest.raises(MTLError, match="tasks"):
        DeepMTDR("resnet18", None, tasks, Hierarchy(**settings))
    for wrong in ({"enlarge": "lanczos"}, {"stage": 3}, {"visualisation": "lime"}):
        with pytest.raises(MTLError, match=str(next(iter(wrong.values())))):
            Hierarchy(**wrong)
    with pytest.raises(MTLError, match="frozen"):
        Hierarchy(frozen=("lesions",))


def test_the_weights_of_table_1():
    assert Hierarchy(stage=1).weights == ISRWeights(img=1, tv=1e-6, sa=10, ca=0)
    assert Hierarchy().weights == ISRWeights(img=1, tv=1e-6, sa=1, ca=10)
    assert Hierarchy(seg_aware=False, cls_aware=False).weights == ISRWeights(img=1, tv=1e-6, sa=0, ca=0)


def test_runs_that_differ_in_stage_2_share_stage_1():
    def first(name: str):
        return replace(first_config(experiment(name, "smoke")), name="")

    whole = first("deepmt-dr")
    assert whole.hierarchy.stage == 1 and not whole.builds_on_first
    for same in ("isr-independent", "lesions-independent", "seg-aware", "grad-cam"):
        assert first(f"deepmt-{same}") == whole
    for other in ("not-aware", "isr-removed", "eq-9-as-printed"):
        assert first(f"deepmt-{other}") != whole


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"threshold": 0.6}, True),
        ({"temperature": 0.2}, True),
        ({"frozen": ("isr", "segmentation"), "cls_aware": False, "visualisation": "smoothgrad"}, True),
        ({"seg_aware": False}, False),
        ({"weight_decay": 0.0}, False),
        ({"scale": 2}, False),
        ({"first_epochs": 7}, False),
    ],
)
def test_what_stage_2_alone_has_is_no_matter_of_stage_1(changes, shared):
    published = Hierarchy()
    assert (replace(published, **changes).first_stage() == published.first_stage()) == shared


def test_a_restored_photograph_is_written(tmp_path):
    learner = module()
    eye = cv2.circle(np.zeros((90, 120, 3), np.uint8), (60, 45), 40, (190, 90, 40), -1)
    found = predict_photograph(learner.network.eval(), learner.config, eye)
    assert found.restored.shape == (64, 64, 3) and found.restored.dtype == np.uint8
    save_prediction(found, "eye", tmp_path)
    with Image.open(tmp_path / "eye_restored.png") as picture:
        assert np.array_equal(np.array(picture), found.restored)


def test_most_of_the_papers_kappas_are_too_high_to_be_unweighted():
    """As 'Reading the papers' says. Chance agreement sum_i p_i q_i is |p + r/2|^2 - |r|^2 / 4 with r = q - p:
    at least 1/5 - d^2/2, where d is the share of wrong grades, since |r|_1 <= 2 d.
    """
    too_high = {}
    for half in ("DDR", "EyePACS"):
        rows = [values for _, values in PAPER_TABLES[f"DeepMT-DR, Table 2, {half}"].rows.values()]
        accuracies, kappas = np.array([(row[0][0], row[3][0]) for row in rows]).T / 100
        best = accuracies + 0.0005  # before rounding
        chance = 1 / 5 - (1 - best) ** 2 / 2
        too_high[half] = int((kappas - 0.0005 > (best - chance) / (1 - chance)).sum())
    assert too_high == {"DDR": 4, "EyePACS": 7}


def test_methods_that_the_course_lacks_are_printed_only():
    shown = beside([], "DeepMT-DR, Table 2, DDR")
    assert shown.loc["paper: CKML", "Accuracy (%)"] == "77.50 ± 0.60"
    assert [run for run in shown.index if run.startswith("ours")] == ["ours: deepmt-dr"]
    assert set(beside([], "DeepMT-DR, Table 2, EyePACS").protocol) == {"paper"}


# --- where the grade looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "changes"), [(ALL, {}), (("grading",), {"enlarge": "none", "scale": 2})], ids=["isr", "none"]
)
def test_evidence_scores_against_a_direct_computation(synthetic_copy, tasks, changes):
    learner = module(tasks, **changes)
    network, copy = learner.network.eval(), synthetic_copy
    scores = evidence_scores(network, learner.config, copy)
    rows = learner.config.parts(copy.table).rows("test", "segmentation")
    assert scores.name.tolist() == copy.table.name.iloc[rows].tolist() and len(rows) == 3
    for (_, score), row in zip(scores.iterrows(), rows, strict=True):
        pixels = cv2.resize(copy.image(row), (64, 64), interpolation=cv2.INTER_AREA)
        small = reduce(
            torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, 4 if "isr" in tasks else 2
        )
        with torch.no_grad():
            picture = network.isr(small) if "isr" in tasks else small
            maps = network.lesions(picture).sigmoid() if "isr" in tasks else None
        found = gmsv(lambda: network.grading(picture, maps), network.grading.feature_layers)  # noqa: B023
        found = F.interpolate(found, picture.shape[-2:], mode="bilinear")
        found = (found - found.amin()) / (found.amax() - found.amin())
        heat = F.interpolate(found, (64, 64), mode="bilinear")[0, 0].numpy()
        inside = inside_field_of_view(pixels) > 0
        masks = [cv2.resize(mask, (64, 64), interpolation=cv2.INTER_AREA) > 0 for mask in copy.mask(row)[:4]]
        regions = dict(zip(DISEASE_LESIONS, masks)) | {"background": ~np.any(masks, axis=0)}
        expected = {name: roc_auc_score(m[inside], heat[inside]) for name, m in regions.items() if m.any()}
        assert score.drop("name").dropna().to_dict() == pytest.approx(expected, abs=5e-3)
    means = evidence_metrics(scores)
    assert means["evidence/auc/background"] == pytest.approx(scores.background.mean())


def test_without_masks_there_is_no_evidence_to_judge(synthetic_copy):
    learner = module(("grading", "isr"))
    graded = replace(synthetic_copy, table=synthetic_copy.table.query("part == 'B'"))
    config = replace(learner.config, protocol="paper")
    scores = evidence_scores(learner.network.eval(), config, graded)
    assert scores.empty and evidence_metrics(scores, n_bootstrap=10) == {}
