"""PLDMLT's stage 1: classifiers learn from part B, and give the photographs of part A a grade."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.errors import MTLError
from mtl_utils.pseudo import file_digest
from mtl_utils.pseudo_grades import FILE, PseudoGrades, make_pseudo_grades
from mtl_utils.training.checkpoints import load_model
from mtl_utils.training.config import Config
from mtl_utils.training.fitting import fit


def stage_one(
    configs: Sequence[Config],
    copy: WorkingCopy,
    folder: str | Path,
    resume: bool = False,
    progress: bool = True,
) -> PseudoGrades:
    """Train the classifiers, each in `folder`/classifier-1, -2, .., and let them grade the photographs with
    masks. What is done already is not done again.

    Args:
        configs: of the classifiers. Under the protocol 'clean-folds' they see no photograph of part A.
        copy: working copy with pictures large enough for all of them.
        folder: takes the checkpoints and the pseudo grades.
        resume: go on where a stopped run was.
        progress: print a line per epoch, and show bars on a terminal.

    Raises:
        MTLError: a configuration that would learn from photographs that it shall grade, or what `fit` raises.
    """
    folder = Path(folder).expanduser()
    for config in configs:
        if config.protocol != "clean-folds" or config.tasks != ("grading",):
            raise MTLError(
                f"{config.name}: a classifier of stage 1 only grades, and has the protocol 'clean-folds', "
                "under which it sees no photograph of part A"
            )
    runs = [
        fit(config, copy, folder / f"classifier-{number}", resume=resume, progress=progress)
        for number, config in enumerate(configs, start=1)
    ]
    makers = [file_digest(run.checkpoint()) for run in runs]
    runs_are = {"seed": configs[0].seed, "profile": configs[0].profile}
    if (folder / FILE).exists():
        found = PseudoGrades.open(folder / FILE)
        if found.about == {"data_fingerprint": copy.fingerprint, "makers": makers, **runs_are}:
            return found
    made = make_pseudo_grades(
        [load_model(run.checkpoint())[0] for run in runs],
        [config.grading_size for config in configs],
        copy,
        np.flatnonzero(copy.table.part == "A"),
        makers,
        progress=progress and sys.stderr.isatty(),
        **runs_are,
    )
    made.write(folder)
    return made
