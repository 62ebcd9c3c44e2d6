"""More than one process for one run: what each takes, and how the parts are put together again.

Lightning starts the processes and averages their gradients (DDP). Every loss is a mean over photographs, and
each process takes an equal share of each step's photographs: so the average is the gradient of all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from timm.layers import convert_sync_batchnorm
from torch import distributed

from mtl_utils.data.splits import Split
from mtl_utils.errors import MTLError
from mtl_utils.systems.base import TASKS
from mtl_utils.training.config import Config
from mtl_utils.training.scores import Scores

Place = tuple[int, int]
"""The number of a process (its rank), from 0, and how many there are."""


def rank(processes: int) -> int:
    """Which of a run's processes this one is, known before they have met: from the environment."""
    return rank_zero_only.rank if processes > 1 else 0


class SharedStatistics(LayerSync):
    """Batch normalisation with the statistics of all processes' photographs. Lightning's own way, torch's,
    would drop the activations that timm's encoders keep in their normalisation layers.
    """

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        return convert_sync_batchnorm(model)

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        return model  # trained, only its weights are used


def trainer_settings(devices: int, nodes: int) -> dict:
    """What Lightning's Trainer is told of the processes."""
    if devices * nodes == 1:
        return {"devices": 1}
    return {
        "devices": devices,
        "num_nodes": nodes,
        # Some encoders end in layers that no task asks for. The running averages of batch normalisation are
        # averaged once an epoch, before they are used (`average_statistics`).
        "strategy": DDPStrategy(find_unused_parameters=True, broadcast_buffers=False),
        "use_distributed_sampler": False,  # it would shuffle anew: the loaders share out by themselves
        "plugins": [SharedStatistics()] if torch.cuda.is_available() else [],  # torch has none for CPUs
    }


def check_processes(config: Config, parts: Split, devices: int, nodes: int) -> None:
    """Refuse what a run in several processes cannot do, before any is started.

    Raises:
        MTLError: a number below 1; processes that are not there, or that nobody starts; a run, a batch or a
            validation split that cannot be shared out.
    """
    processes = devices * nodes
    if min(devices, nodes) < 1:
        raise MTLError(f"--devices {devices} and --nodes {nodes}: both are 1 or more")
    started = _started_outside(devices, nodes)
    if processes == 1:
        return
    if hasattr(sys, "ps1"):
        raise MTLError("a notebook has one process. For more, start 'mtl train' in a terminal.")
    if nodes > 1 and not started:
        raise MTLError(
            f"--nodes {nodes}: 'mtl train' starts processes on its own machine only. Start it with srun or "
            "torchrun (the page 'Running on a cluster' shows how)."
        )
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise MTLError(
            f"--devices {devices}, but this process sees {torch.cuda.device_count()} GPU(s) on its machine. "
            "Give fewer, or ask for more."
        )
    if reason := _cannot_be_shared(config):
        raise MTLError(f"{config.name} {reason}: train it in one process, without --devices and --nodes.")
    if config.batch_size % processes:
        raise MTLError(
            f"{config.name}: {config.batch_size} photographs of a step cannot be shared out equally among "
            f"{processes} processes. Take a number of processes that divides {config.batch_size}."
        )
    if max(len(parts.rows("train", task)) for task in TASKS) < config.batch_size:
        raise MTLError(
            f"{config.name}: fewer photographs than one step's {config.batch_size}: nothing to share"
        )
    for task in config.tasks:
        there = len(parts.rows("val", config.judged_on(task)))
        if there < processes:
            raise MTLError(
                f"{config.name}: {there} photograph(s) to validate {task} with, and {processes} processes: "
                "each needs one. Take fewer processes."
            )


def _started_outside(devices: int, nodes: int) -> bool:
    """Did srun or torchrun start this process?

    Raises:
        MTLError: they started other processes than are asked for.
    """
    if TorchElasticEnvironment.detect():
        kind, started = TorchElasticEnvironment, os.environ["WORLD_SIZE"]
    # A job may have many tasks that each run something else: a run in one process does not ask.
    elif devices * nodes > 1 and SLURMEnvironment.detect():
        kind, started = SLURMEnvironment, os.environ["SLURM_NTASKS"]
    else:
        return False
    if int(started) != devices * nodes:
        raise MTLError(
            f"srun or torchrun started {started} process(es), but --devices {devices} times --nodes {nodes} "
            f"is {devices * nodes}. Give --devices the processes of one machine and --nodes the machines."
        )
    try:
        kind().validate_settings(devices, nodes)
    except (RuntimeError, ValueError) as error:
        raise MTLError(f"--devices {devices} --nodes {nodes} do not fit the job: {error}") from error
    return True


def _cannot_be_shared(config: Config) -> str | None:
    """Why a run needs all its photographs in one process; None: it does not."""
    if config.label_update:
        return "updates labels with gradients that it takes itself, which nobody would average"
    if config.members > 1:
        return "trains several networks, one after the other"
    if config.builds_on_first or config.pseudo_grades:
        return "builds on a network that is trained before it"
    if config.hierarchy and "segmentation" in config.tasks:
        return "learns lesions by the Dice of a whole step (Eq. 7), which is no mean over photographs"
    if config.mask_loss != "bce":
        return "learns by the Dice of a whole step, which is no mean over photographs"
    if config.own_backward:
        return "takes the gradients of each task itself, which nobody would average"
    return None


def training_share(number: int, batch_size: int, place: Place) -> range:
    """Positions of the photographs that one process learns from, of an epoch of `number` of them.

    Of each batch of `batch_size` it takes every n-th; a last batch that is not whole is left out.

    >>> [list(training_share(10, 4, (rank, 2))) for rank in (0, 1)]
    [[0, 2, 4, 6], [1, 3, 5, 7]]
    """
    return range(place[0], number - number % batch_size, place[1])


def judged_share(rows: np.ndarray, place: Place) -> np.ndarray:
    """The photographs that one process judges, one after the other in the table: so that `together` has them
    in the table's order.

    >>> [judged_share(np.arange(5), (rank, 2)).tolist() for rank in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    return np.array_split(rows, place[1])[place[0]]


def begin_together(epochs: int) -> None:
    """Have all processes learned equally many epochs, as they have if they found the same checkpoint?

    Raises:
        MTLError: they have not.
    """
    everyone = _of_all(epochs)
    if len(set(everyone)) > 1:
        raise MTLError(
            f"the processes go on after {', '.join(map(str, everyone))} epochs: they see different runs. "
            "Give --out a folder on a disk that all machines see."
        )


@contextmanager
def end_together(trainer: L.Trainer) -> Iterator[None]:
    """A run ends in all its processes if it fails in one.

    Raises:
        MTLError: in place of torch's error, where another process is gone.
    """
    try:
        yield
    except BaseException as error:
        for process in getattr(trainer.strategy.launcher, "procs", ()):
            process.kill()  # it might wait for this one in a place where no signal reaches it
        if trainer.world_size > 1 and isinstance(error, RuntimeError) and "peer" in str(error):
            raise MTLError("another process of this run has ended. Its own message says why.") from error
        raise


def _of_all(own: object) -> list:
    """What each process has, in the order of their numbers."""
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return found


def together(scores: Scores) -> Scores:
    """The scores of all processes, in each of them."""
    first, *others = _of_all(scores)
    for other in others:
        first.merge(other)
    return first


def mean_losses(steps: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """The losses of each step, averaged over the processes: those of all its photographs."""
    shares = _of_all([{name: loss.item() for name, loss in step.items()} for step in steps])
    return [
        {name: torch.tensor(np.mean([share[name] for share in step])) for name in step[0]}
        for step in zip(*shares, strict=True)
    ]


@torch.no_grad()
def average_statistics(network: torch.nn.Module) -> None:
    """Give all processes the same running averages of batch normalisation: their mean.

    On GPUs they are the same already. On a CPU each process has those of its own shares, and as they are
    updated linearly, to average them at the end of an epoch is to have averaged them at each step.
    """
    for name, buffer in network.named_buffers():
        if "running_" in name:
            distributed.all_reduce(buffer)
            buffer /= distributed.get_world_size()
