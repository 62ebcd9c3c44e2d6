"""What do the dear steps cost, each beside a plain step of the same network? PLDMLT's label update,
DeepMT-DR's GMSV, and the ways to balance two tasks.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional as F

from mtl_utils.balancing import BALANCINGS, FIXED, create_balance
from mtl_utils.explain import gmsv
from mtl_utils.lesions import GRADES
from mtl_utils.losses import weighted_sum
from mtl_utils.runtime import default_device, peak_memory, reset_peak_memory
from mtl_utils.systems.base import TASKS
from mtl_utils.systems.deepmt_dr import GradingSubnet
from mtl_utils.systems.deepmt_dr_losses import distance_weighted_loss
from mtl_utils.systems.pldmlt import Batch, LabelUpdateNetwork, meta_gradient, stage_two_loss
from mtl_utils.training.config import Config, build_network
from mtl_utils.training.fitting import precision
from mtl_utils.training.module import MultiTaskModule

KINDS = ("plain step", "update, first order", "update, second order")
GMSV_KINDS = ("forward and backward", "gmsv")

BALANCING_KINDS = (*BALANCINGS, *TASKS)
"""Each way to balance, and each task alone."""

Steps = dict[str, Callable[[], object]]


def update_costs(config: Config, repeats: int = 9) -> pd.DataFrame:
    """Time and memory of a training step with fixed labels, and of a label update of either order.

    The three take turns, so that other work on the machine hits all of them, and of each the fastest counts.
    Memory is what two steps need beyond networks and batch, each kind in a process of its own, where nothing
    is left from before.

    Args:
        config: of a run with a label update: its networks, picture size, batch size, losses and precision.
        repeats: timed rounds, after one that warms up.

    Returns:
        A row for each of `KINDS`: seconds, times (as many as a plain step), peak_memory_gib.
    """
    return _costs(partial(_update_steps, config), repeats)


def gmsv_costs(
    encoder_name: str,
    encoder_weights: str | Path | None,
    size: int,
    batch_size: int,
    repeats: int = 9,
) -> pd.DataFrame:
    """Time and memory of one forward and backward pass of DeepMT-DR's grading subnet, and of `explain.gmsv`
    of all its encoder's feature maps, without a graph of its own; measured as by `update_costs`.

    GMSV goes forward once and back once, but asks only for the derivatives by the feature maps: torch then
    leaves out those by the weights, and whatever lies before the first map. So it can be the cheaper one.
    Both run in training mode and in float32.

    Args:
        encoder_name, encoder_weights: see `GradingSubnet`.
        size: side of the photographs, which are random.
        batch_size: of photographs.
        repeats: timed rounds, after one that warms up.

    Returns:
        A row for each of `GMSV_KINDS`: seconds, times (as many as forward and backward), peak_memory_gib.
    """
    return _costs(partial(_gmsv_steps, encoder_name, encoder_weights, size, batch_size), repeats)


def balancing_costs(
    config: Config, kinds: Sequence[str] = BALANCING_KINDS, repeats: int = 9, memory: bool = True
) -> pd.DataFrame:
    """Time and memory of a training step of each way to balance, and of each task alone, beside a step on the
    sum of both losses ('fixed'); measured as by `update_costs`.

    Args:
        config: of a run with both tasks: its network, picture size, batch size and precision.
        kinds: of `BALANCING_KINDS`; 'fixed' is always measured.
        repeats: timed rounds, after one that warms up.
        memory: measure it; each kind then needs a process of its own, and seconds to start it.

    Returns:
        A row for 'fixed' and each of `kinds`: seconds, times (as many as a step of 'fixed'), and
        peak_memory_gib.
    """
    return _costs(
        partial(_balancing_steps, config, (FIXED, *(kind for kind in kinds if kind != FIXED))),
        repeats,
        memory,
    )


def _costs(make_steps: Callable[[], Steps], repeats: int, memory: bool = True) -> pd.DataFrame:
    """Seconds, times (as many as the first step) and memory of each step. `make_steps` is called once more in
    each process that measures memory.
    """
    steps = make_steps()
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(repeats + 1):
        for kind, step in steps.items():
            started = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[kind].append(time.perf_counter() - started)
    fastest = {kind: min(values[1:]) for kind, values in seconds.items()}
    plain = next(iter(fastest.values()))
    table = pd.DataFrame(
        {"seconds": fastest, "times": {kind: value / plain for kind, value in fastest.items()}}
    )
    if not memory:
        return table
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, maxtasksperchild=1) as pool:
        peaks = {kind: pool.apply(_memory_of, (make_steps, kind, torch.get_num_threads())) for kind in steps}
    return table.assign(peak_memory_gib=pd.Series(peaks))


def _memory_of(make_steps: Callable[[], Steps], kind: str, threads: int) -> float | None:
    """In a fresh process: GiB that two steps of one kind need beyond networks and batch; None where the
    system does not tell.
    """
    torch.set_num_threads(threads)
    step = make_steps()[kind]
    if not reset_peak_memory():
        return None
    before = peak_memory()
    step()
    step()
    return peak_memory() - before


def _gmsv_steps(encoder_name: str, encoder_weights: str | Path | None, size: int, batch_size: int) -> Steps:
    """Both steps, on random pictures."""
    device = torch.device(default_device())
    network = GradingSubnet(encoder_name, encoder_weights).to(device)
    image, lesions = (torch.rand(batch_size, n, size, size, device=device) for n in (3, network.maps))
    grade = torch.randint(len(GRADES), (batch_size,), device=device)

    def plain() -> None:
        network.zero_grad()
        distance_weighted_loss(network(image, lesions), grade).backward()

    def visualise() -> None:
        gmsv(lambda: network(image, lesions), network.feature_layers, size=(size, size))

    return dict(zip(GMSV_KINDS, (plain, visualise), strict=True))


def _update_steps(config: Config) -> Steps:
    """The three steps, on random pictures."""
    device = torch.device(default_device())
    network = build_network(config).to(device)
    settings = config.label_update
    updater = LabelUpdateNetwork(
        config.encoder_name, config.encoder_weights, settings.hierarchy, settings.start
    ).to(device)
    batch = _random_batch(config, device, config.segmentation_size)
    labels = F.one_hot(batch["grade"], len(GRADES)).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    half = precision(config.system).startswith("bf16")

    def plain() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = sum(
                stage_two_loss(network(batch["image"]), batch, labels, config.lambda_cls, config.focal)
            )
        loss.backward()
        optimizer.step()

    def update(order: str) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            meta_gradient(
                network, updater, batch, replace(settings, order=order), config.lambda_cls, config.focal
            )

    return dict(zip(KINDS, (plain, lambda: update("first"), lambda: update("second")), strict=True))


def _balancing_steps(config: Config, kinds: Sequence[str]) -> Steps:
    """The steps, on random pictures."""
    device = torch.device(default_device())
    batch = {task: _random_batch(config, device, config.crop_size) for task in TASKS}
    return {kind: _balancing_step(config, kind, batch) for kind in kinds}


def _balancing_step(config: Config, kind: str, batch: dict[str, Batch]) -> Callable[[], object]:
    tasks = (kind,) if kind in TASKS else TASKS
    config = replace(config, tasks=tasks, balancing=FIXED, conflict_every=0)
    device = torch.device(default_device())
    network = build_network(config).to(device)
    module = MultiTaskModule(config, network)
    balance = None if kind in TASKS else create_balance(kind)
    learned = [] if balance is None else balance.to(device).parameters()
    optimizer = torch.optim.Adam([*network.parameters(), *learned], lr=config.learning_rate)
    half = precision(config.system).startswith("bf16")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses = module.losses({task: batch[task] for task in tasks})
        if balance is None:
            weighted_sum(losses, config.lambda_cls).backward()
        else:
            balance.backward(losses, network)
        optimizer.step()
        if balance is not None:
            balance.after_step()

    return step


def _random_batch(config: Config, device: torch.device, side: int) -> Batch:
    number, classes = config.batch_size, len(config.space.classes)
    chosen = torch.randint(classes, (number, side, side))
    return {
        "image": torch.rand(number, 3, side, side, device=device),
        "mask": F.one_hot(chosen, classes).movedim(-1, 1).float().to(device),
        "has_mask": torch.ones(number, dtype=torch.bool, device=device),
        "grade": torch.randint(len(GRADES), (number,), device=device),
        "plausible": torch.ones(number, len(GRADES), dtype=torch.bool, device=device),
    }
