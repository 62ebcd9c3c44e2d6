"""Several processes for one run: the same photographs in each step, the same gradient, the same record.

The runs in two processes compute in float64. There the order in which numbers are added does not show, and
what differs from one process is a mistake.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import mtl
from torch.nn import functional as F

from mtl_utils import experiments
from mtl_utils.errors import MTLError
from mtl_utils.experiments import experiment
from mtl_utils.losses import weighted_sum
from mtl_utils.records import load_records
from mtl_utils.training import Config, FundusData, MultiTaskModule, build_network, fit, fitting, folds
from mtl_utils.training import distributed as shared
from mtl_utils.training.distributed import SharedStatistics, check_processes, judged_share, training_share
from mtl_utils.training.hierarchy import HierarchyModule
from mtl_utils.training.loaders import derived_seed

TESTS = Path(__file__).parent
FAILS = "MTL_TEST_FAILS"
"""Environment variable: the process with this number fails in the second epoch."""


def arrange(change: Callable[[object, str, object], None]) -> None:
    """Small runs in float64. `change` is `setattr`, or pytest's."""
    sizes = {
        paper: {**profiles, "smoke": {**profiles["smoke"], "steps_per_epoch": 2}}
        for paper, profiles in experiments.SIZES.items()
    }
    smaller = dict.fromkeys(("grading_size", "segmentation_size", "crop_size"), 32)
    sizes[experiments.MTUNET]["smoke"] |= smaller
    # Not here: the deepest features would be single pixels, and the statistics of two numbers turn rounding
    # into something else.
    sizes[experiments.PLDMLT_PAPER]["smoke"]["epochs"] = 1
    change(experiments, "SIZES", sizes)
    change(fitting, "precision", lambda *_: "64-true")

    def in_float64(config: Config) -> torch.nn.Module:
        network = build_network(config).double()  # Lightning does so after it has read a checkpoint
        network.encoder._drop_connect_rate = 0.0  # with which EfficientNet leaves out layers
        return network

    change(fitting, "build_network", in_float64)
    change(folds, "FOLDS", 2)
    step = MultiTaskModule.training_step

    def failing(self: MultiTaskModule, batch: dict, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1 and os.environ.get(FAILS) == str(self.global_rank):
            raise MTLError("a photograph is damaged")
        return step(self, batch, batch_idx)

    change(MultiTaskModule, "training_step", failing)


@pytest.fixture(scope="module")
def arranged(tmp_path_factory) -> dict[str, str]:
    """Environment of a process that arranges itself when it starts, and so do those that it starts."""
    folder = tmp_path_factory.mktemp("site")
    folder.joinpath("sitecustomize.py").write_text("from test_distributed import arrange\narrange(setattr)\n")
    path = os.pathsep.join(map(str, (folder, TESTS, TESTS.parent)))
    return {**os.environ, "PYTHONPATH": path}


def train(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess:
    """The real command, in a process of its own. A run that hangs fails here."""
    command = [sys.executable, "-m", "mtl_utils", "train", *map(str, words), "--profile", "smoke"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def numbers(record: dict) -> dict[str, object]:
    """All that a record holds, flat, but for how and when it was made."""
    apart = ("seconds", "peak_memory_gib", "device", "devices", "nodes", "date", "code")
    flat: dict[str, object] = {}

    def walk(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                if key not in apart:
                    walk(f"{name}/{key}", each)
        elif isinstance(value, list):
            for place, each in enumerate(value):
                walk(f"{name}[{place}]", each)
        else:
            flat[name] = value

    walk("", record)
    return flat


def assert_same(one: Path, two: Path) -> dict:
    """Equal records, to the four digits that they have. Returns the second."""
    (first,), (second,) = load_records(one), load_records(two)
    expected, found = numbers(first), numbers(second)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == (
            pytest.approx(value, rel=1.1e-3, abs=1e-9) if isinstance(value, float) else value
        ), name
    assert (first["devices"], first["nodes"]) == (1, 1)
    return second


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (one, two))
    for name, weights in first.items():
        assert torch.allclose(weights, second[name], rtol=0, atol=1e-9), name


APART = ("mtunet-c", "--encoder", "tu-test_efficientnet_gn", "--weights", "none")
"""Two tasks in one pass, with neither batch normalisation nor dropout: photographs do not meet."""


def test_two_processes_one_of_which_fails_then_resume_to_the_record_of_one_process(
    arranged, monkeypatch, capsys, tmp_path
):
    one, two = tmp_path / "one", tmp_path / "two"
    failed = train({**arranged, FAILS: "1"}, *APART, "--devices", 2, "--out", two)
    assert failed.returncode not in (0, None)
    assert "mtl: a photograph is damaged" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list(two.glob("*.json"))
    resumed = train(arranged, *APART, "--devices", 2, "--out", two, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("epoch  2/2") == resumed.stdout.count("record:") == 1
    with monkeypatch.context() as patched:
        arrange(patched.setattr)
        assert mtl(capsys, patched, "train", *APART, "--profile", "smoke", "--out", one)[0] == 0
        refused = mtl(capsys, patched, "train", *APART, "--profile", "smoke", "--out", two, "--resume")
        assert refused[0] == 2
        assert "began with 2 process(es)" in refused[2]
    record = assert_same(one, two)
    assert (record["devices"], record["nodes"], record["epochs"]) == (2, 1, 2)
    assert_same_weights(one / "last.ckpt", two / "last.ckpt")


def test_batch_normalisation_on_a_cpu_is_that_of_each_share(arranged, monkeypatch, capsys, tmp_path):
    """Two folds, one after the other. The one process splits each batch before it normalises. This encoder
    ends in layers that no task asks for.
    """
    from mtl_utils.data.synthetic import write_synthetic

    root = write_synthetic(tmp_path / "set", size=96, n_a=(16, 4), n_b=(10, 5), progress=False)
    one, two = tmp_path / "one", tmp_path / "two"
    run = ("fused-unet", "--encoder", "efficientnet-b0", "--weights", "none", "--data", root, "--out")
    ended = train(arranged, *run, two, "--devices", 2)
    assert ended.returncode == 0, ended.stderr
    whole = F.batch_norm

    def of_shares(x, mean, var, weight, bias, training=False, momentum=0.1, eps=1e-5):
        if not training:
            return whole(x, mean, var, weight, bias, False, momentum, eps)
        statistics = [(mean.clone(), var.clone()) for _ in range(2)]
        parts = [
            whole(x[rank::2], *own, weight, bias, True, momentum, eps) for rank, own in enumerate(statistics)
        ]
        for kept, *own in zip((mean, var), *statistics, strict=True):
            kept.copy_(sum(own) / 2)
        return torch.stack(parts, 1).flatten(0, 1)

    with monkeypatch.context() as patched:
        arrange(patched.setattr)
        patched.setattr(F, "batch_norm", of_shares)
        assert mtl(capsys, patched, "train", *run, one, "--profile", "smoke")[0] == 0
    assert_same(one, two)
    for fold in ("fold-0", "fold-1"):
        assert_same_weights(one / fold / "last.ckpt", two / fold / "last.ckpt")


@pytest.mark.parametrize("number", [8, 10, 11])
@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_a_step_are_its_photographs(number, processes):
    shares = [training_share(number, 4, (rank, processes)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    each = 4 // processes
    for step in range(number // 4):
        seen = sorted(place for share in shares for place in share[step * each : (step + 1) * each])
        assert seen == list(range(4 * step, 4 * step + 4))
    judged = [judged_share(np.arange(number), (rank, processes)) for rank in range(processes)]
    assert np.concatenate(judged).tolist() == list(range(number))


def test_each_process_has_its_part_of_the_same_batches(synthetic_copy):
    """The same photographs, augmented alike."""
    config = experiment("shared-lambda-0.1", "smoke")
    data = FundusData(config, synthetic_copy, config.parts(synthetic_copy.table))

    def epoch(rank: int, processes: int) -> list:
        data.trainer = SimpleNamespace(global_rank=rank, world_size=processes, current_epoch=3)
        return [batch for batch, _, _ in data.train_dataloader()]

    whole, shares = epoch(0, 1), [epoch(rank, 2) for rank in range(2)]
    assert len(whole) == len(shares[0]) == len(shares[1]) > 1
    for step, batch in enumerate(whole):
        for task in config.tasks:
            for name in ("row", "image", "grade", "mask"):
                for rank in range(2):
                    assert torch.equal(shares[rank][step][task][name], batch[task][name][rank::2])


def losses_and_gradients(name: str) -> tuple[torch.Tensor, ...]:
    """Of a whole batch and, averaged, of its halves; without batch statistics."""
    encoder = {"encoder_name": "resnet18", "encoder_weights": None}
    config = experiment(name, "smoke", dropout=0.0, **encoder)
    torch.manual_seed(0)
    kind = HierarchyModule if config.hierarchy else MultiTaskModule
    module = kind(config, build_network(config)).double().eval()
    image, grade = torch.rand(4, 3, 32, 32).double(), torch.tensor([0, 2, 4, 1])
    share = torch.tensor([0.01, 0.6, 0.01, 0.6]).view(4, 1, 1, 1)  # few lesions here, many there
    mask = (torch.rand(4, len(config.space.classes), 32, 32) < share).double()
    has_mask = torch.ones(4, dtype=torch.bool)
    batch = {
        task: {"image": image.roll(place, 0), "grade": grade, "mask": mask, "has_mask": has_mask}
        for place, task in enumerate(config.tasks)
    }
    found = []
    for places in (slice(None), slice(0, None, 2), slice(1, None, 2)):
        module.zero_grad()
        part = {
            task: {key: each[places] for key, each in photographs.items()}
            for task, photographs in batch.items()
        }
        loss = weighted_sum(module.losses(part), config.lambda_cls)
        loss.backward()
        gradients = [each.grad.flatten() for each in module.parameters() if each.grad is not None]
        found.append(torch.cat([loss.detach().view(1), *gradients]))
    whole, *halves = found
    return whole, sum(halves) / 2


@pytest.mark.parametrize(
    "name",
    [
        "shared-lambda-0.1",
        "shared-lambda-0.1-twopass",
        "mtunet-a",
        "mtunet-c",
        "unet",
        "pldmlt-masks",
        "isr",
        "grade-at-1-2",
    ],
)
def test_the_mean_of_the_shares_gradients_is_the_gradient_of_the_whole(name):
    whole, halves = losses_and_gradients(name)
    assert whole.abs().max() > 0
    assert torch.allclose(whole, halves, rtol=1e-4, atol=1e-7 * whole.abs().max())


def test_a_dice_of_the_whole_step_cannot_be_shared(synthetic_copy, tmp_path):
    whole, halves = losses_and_gradients("lesions-at-1-2")
    assert not torch.allclose(whole, halves, rtol=1e-2, atol=1e-3 * whole.abs().max())
    with pytest.raises(MTLError, match=r"Eq. 7.*without --devices"):
        fit(experiment("lesions-at-1-2", "smoke"), synthetic_copy, tmp_path, devices=2)


@pytest.mark.parametrize(
    ("name", "settings", "devices", "nodes", "said"),
    [
        ("grading-only", {}, 3, 1, "4 photographs of a step cannot be shared out equally among 3"),
        ("grading-only", {}, 0, 1, "1 or more"),
        ("grading-only", {}, 1, 2, "srun or torchrun"),
        ("grading-only", {"batch_size": 64}, 2, 1, "fewer photographs"),
        ("shared-lambda-0.1", {}, 4, 1, "to validate grading with"),
        ("pldmlt", {}, 2, 1, "updates labels"),
        ("pldmlt-two-tasks", {}, 2, 1, "trained before"),
        ("mtunet-c-semi", {}, 2, 1, "trained before"),
        ("mtunet-b", {}, 2, 1, "trained before"),
        ("deepmt-dr", {}, 2, 1, "trained before"),
        ("lesions-best", {}, 2, 1, "Dice of a whole step"),
        ("lesions-mean", {}, 2, 1, "several networks"),
        ("balance-pcgrad", {}, 2, 1, "gradients of each task"),
    ],
)
def test_what_cannot_be_shared_is_refused(synthetic_copy, name, settings, devices, nodes, said):
    config = experiment(name, "smoke", **settings)
    parts = config.parts(synthetic_copy.table)
    check_processes(config, parts, 1, 1)
    with pytest.raises(MTLError, match=said):
        check_processes(config, parts, devices, nodes)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "said"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, 1, 1, "started 2"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, 2, 1, "started 4"),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}, 1, 2, "do not fit"),
        ({"SLURM_NTASKS": "2"}, 2, 1, "--ntasks-per-node"),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}, 2, 1, None),
        ({"SLURM_NTASKS": "2"}, 1, 1, None),  # two runs beside each other
    ],
)
def test_the_job_has_the_processes_that_are_asked_for(
    synthetic_copy, monkeypatch, environment, devices, nodes, said
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = experiment("grading-only", "smoke")
    parts = config.parts(synthetic_copy.table)
    if said is None:
        check_processes(config, parts, devices, nodes)
    else:
        with pytest.raises(MTLError, match=said):
            check_processes(config, parts, devices, nodes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("grading-only", "--devices", 3), "cannot be shared out"),
        (("pldmlt", "--devices", 2), "updates labels"),  # before stage 1 is trained
        (("grading-only", "--devices", 2, "--data", "nowhere"), "nowhere"),
    ],
)
def test_the_command_refuses_before_it_starts_processes(capsys, monkeypatch, tmp_path, words, said):
    status, _, told = mtl(
        capsys, monkeypatch, "train", *words, "--profile", "smoke", "--out", tmp_path / "run"
    )
    assert status == 2
    assert said in told
    assert not (tmp_path / "run").exists()


def test_processes_that_see_other_checkpoints_stop(monkeypatch):
    monkeypatch.setattr(shared, "_of_all", lambda own: [own, 2])
    shared.begin_together(2)
    with pytest.raises(MTLError, match="after 0, 2 epochs"):
        shared.begin_together(0)


def test_statistics_are_shared_without_losing_an_activation():
    """timm's encoders keep activations in their normalisation; torch's own conversion drops them."""
    network = build_network(experiment("shared-lambda-0.1", "smoke")).eval()
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(picture)
        after = SharedStatistics().apply(network)(picture)
    kinds = [type(layer) for layer in network.modules() if hasattr(layer, "running_mean")]
    assert kinds
    assert all(issubclass(kind, torch.nn.SyncBatchNorm) for kind in kinds)
    for task, logits in before.items():
        assert torch.allclose(logits, after[task], atol=1e-5)


def test_each_process_draws_dropout_of_its_own(monkeypatch):
    config = experiment("grading-only", "smoke")
    module = MultiTaskModule(config, torch.nn.Identity())
    monkeypatch.setattr(module, "losses", lambda batch: {"grading": torch.rand(())})

    def drawn(rank: int) -> float:
        module._trainer = SimpleNamespace(global_rank=rank, current_epoch=2)
        return module.training_step({}, 5).item()

    torch.manual_seed(derived_seed(config.seed, 2, 5))
    assert torch.rand(()).item() == drawn(0)  # as one process
    assert len({drawn(rank) for rank in range(4)}) == 4
