"""Five-fold cross-validation: each photograph of part A is judged once, by a network that never saw it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.data.splits import FOLDS
from mtl_utils.errors import MTLError
from mtl_utils.pseudo_grades import PseudoGrades
from mtl_utils.training.config import LAST, Config
from mtl_utils.training.distributed import rank
from mtl_utils.training.fitting import FitResult, fit
from mtl_utils.training.scores import Scores


@dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` leaves.

    Attributes:
        config: of the first fold; the others differ in `fold` only.
        folds: one run each.
    """

    config: Config
    folds: tuple[FitResult, ...]

    @property
    def history(self) -> pd.DataFrame:
        """As `FitResult.history`, with a column `fold`."""
        return pd.concat(
            [run.history.assign(fold=number) for number, run in enumerate(self.folds)], ignore_index=True
        )

    @property
    def seconds(self) -> float:
        """Training time of all folds."""
        return sum(run.seconds for run in self.folds)

    @property
    def devices(self) -> int:
        """As `FitResult.devices`."""
        return self.folds[0].devices

    @property
    def nodes(self) -> int:
        """As `FitResult.nodes`."""
        return self.folds[0].nodes

    @property
    def pseudo(self) -> PseudoGrades | None:
        """As `FitResult.pseudo`."""
        return self.folds[0].pseudo

    def scores(self, copy: WorkingCopy, which: str | None = None, role: str = "test") -> Scores:
        """All photographs together, each judged by the network of the fold that left it out.

        Args:
            copy: the working copy.
            which: the checkpoint, as in `FitResult.checkpoint`.
            role: 'test' or 'val'.
        """
        first, *others = (run.scores(copy, which, role) for run in self.folds)
        for other in others:
            first.merge(other)
        return first


def cross_validate(
    config: Config,
    copy: WorkingCopy,
    folder: str | Path,
    resume: bool = False,
    progress: bool = True,
    pseudo: PseudoGrades | None = None,
    devices: int = 1,
    nodes: int = 1,
) -> CrossValidation:
    """Train one network for each fold, in `folder`/fold-0 to fold-4. A stopped run goes on with `resume`.

    Args: as `fit`.

    Raises:
        MTLError: the protocol has no folds, `folder` holds another kind of run, or what `fit` raises.
    """
    if config.protocol != "clean-folds":
        raise MTLError(f"{config.name}: cross-validation needs the protocol 'clean-folds'")
    if (Path(folder).expanduser() / f"{LAST}.ckpt").exists():
        raise MTLError(f"{folder} holds a run without folds: give another folder (--out)")
    runs = []
    for fold in range(FOLDS):
        if progress and rank(devices * nodes) == 0:
            print(f"fold {fold + 1} of {FOLDS}", flush=True)
        own = replace(config, fold=fold)
        run = fit(
            own,
            copy,
            Path(folder) / f"fold-{fold}",
            resume=resume,
            progress=progress,
            pseudo=pseudo,
            devices=devices,
            nodes=nodes,
        )
        runs.append(run)
    return CrossValidation(runs[0].config, tuple(runs))
