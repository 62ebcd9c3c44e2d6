"""Which photographs a network learns from, is chosen on, and is judged on: three protocols by name.

`paper` is what the shared-encoder report does: the official splits as printed, and the test split doubles as
the validation split. `clean`, the default, keeps the official test splits whole, so that figures can be put
beside published ones, and takes from the training side whatever spoils them. `clean-folds` is for PLDMLT,
which has five-fold cross-validation: each fold of part A is judged once, and part B shows none of part A's
photographs, so that a classifier learned from it can grade part A unseen.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from mtl_utils.errors import MTLError
from mtl_utils.lesions import DISEASE_LESIONS

PROTOCOLS = ("clean", "paper", "clean-folds")
FOLDS = 5
TASK_PARTS = {"grading": "B", "segmentation": "A"}
ROLES = ("train", "val", "test")
VALIDATION_FOLDS = 6  # one of six: 65 graded photographs and eight or nine with masks on IDRiD

LEAK = "the same photograph is in a test split"
CHOOSES = "the same photograph is in a validation split"
CONFLICT = "the same photograph stands there twice, with different labels"
FEW = "left out, to learn from few"
REPEAT = "the same photograph stands there twice"
IN_PART_A = "the same photograph is in part A"


@dataclass(frozen=True)
class Split:
    """The roles of a data set's photographs under one protocol.

    Attributes:
        protocol: one of `PROTOCOLS`.
        roles: per row of the table 'train', 'val', 'test' or 'dropped'.
        tasks: per row 'grading' (part B) or 'segmentation' (part A).
        dropped: part, split, name and reason of every photograph that is left out.
    """

    protocol: str
    roles: np.ndarray
    tasks: np.ndarray
    dropped: pd.DataFrame

    def rows(self, role: str, task: str) -> np.ndarray:
        """Positions in the table of a role's photographs for a task, int (N,).

        Raises:
            MTLError: unknown role or task.
        """
        if role not in ROLES or task not in TASK_PARTS:
            raise MTLError(
                f"no role {role!r} or no task {task!r}. "
                f"Roles: {', '.join(ROLES)}; tasks: {', '.join(TASK_PARTS)}."
            )
        rows = np.flatnonzero((self.roles == role) & (self.tasks == task))
        if self.protocol == "paper" and role == "val" and not len(rows):  # no official validation split
            return self.rows("test", task)  # what the report does, and what chapter 04 warns of
        return rows

    def counts(self) -> pd.DataFrame:
        """Number of photographs by role (rows) and task (columns)."""
        return pd.DataFrame(
            {task: {role: len(self.rows(role, task)) for role in ROLES} for task in TASK_PARTS}
        )


def _reasons(table: pd.DataFrame) -> pd.Series:
    """Why a photograph is left out by the clean protocol; missing where it stays."""
    training, validating, testing = (table.split == role for role in ROLES)
    # Any task's test split counts: a shared encoder that was graded on a photograph has seen it, masks or no
    # masks.
    leaked = ~testing & table.photo.isin(table.photo[testing])
    chooses = training & ~leaked & table.photo.isin(table.photo[validating])
    candidates = table[training & ~leaked & ~chooses]
    same = candidates.groupby(["part", "photo"])
    differs = (same.grade.transform("nunique") > 1) | (same.dme.transform("nunique") > 1)
    reasons = pd.Series(pd.NA, index=table.index, dtype="object")
    reasons[leaked] = LEAK
    reasons[chooses] = CHOOSES
    reasons[candidates.index[differs]] = CONFLICT
    agreeing = candidates[~differs]
    reasons[agreeing.index[agreeing.duplicated(["part", "photo"])]] = REPEAT
    return reasons


def _validation(table: pd.DataFrame, seed: int) -> np.ndarray:
    """Bool (N,): which of these training photographs validate. All files of a photograph fall on the same
    side.
    """
    kinds = table.part + table.grade.astype("string").fillna("-")
    parts = table.part.unique()
    folds = min(VALIDATION_FOLDS, *(table.photo[table.part == part].nunique() for part in parts))
    if kinds.value_counts().max() < folds:
        kinds[:] = ""  # every kind is rarer than there are folds: nothing to share out
    if folds >= 2:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The least populated class"
            )  # a tiny set need not have every grade on both sides
            for _, chosen in splitter.split(table, kinds, groups=table.photo):
                validates = np.isin(np.arange(len(table)), chosen)
                if table.part[validates].nunique() == table.part[~validates].nunique() == len(parts):
                    return validates
    raise MTLError(
        "too few photographs to carve a validation split from: each part needs at least two for training"
    )


def _in_fold(table: pd.DataFrame, seed: int, fold: int) -> np.ndarray:
    """Bool (N,): which photographs of part A this fold judges. All files of a photograph fall together."""
    part_a = np.flatnonzero(table.part == "A")
    photos = table.photo.iloc[part_a]
    if photos.nunique() < FOLDS:
        raise MTLError(f"{photos.nunique()} photographs with masks: too few for {FOLDS} folds")
    # Not every photograph shows every lesion: each fold shall have its share.
    kinds = table.iloc[part_a][list(DISEASE_LESIONS)].notna().astype(int).astype(str).agg("".join, axis=1)
    if kinds.value_counts().max() < FOLDS:
        kinds[:] = ""  # every mixture is rarer than there are folds: nothing to share out
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # a rare mixture of lesions
        _, chosen = list(splitter.split(part_a, kinds, groups=photos))[fold]
    return np.isin(np.arange(len(table)), part_a[chosen])


def split(table: pd.DataFrame, protocol: str = "clean", seed: int = 0, fold: int = 0) -> Split:
    """Give every photograph its role.

    Args:
        table: with `photo` linked, as in a working copy (`WorkingCopy.table`).
        protocol: one of `PROTOCOLS`.
        seed: decides which training photographs validate, and what is a fold (not with 'paper'). Where a part
            has official validation photographs (split 'val'), those validate, and no others of that part.
        fold: which fold is judged, 0-4 (only with 'clean-folds').

    Raises:
        MTLError: unknown protocol or fold, or too few photographs for a validation split or for folds.
    """
    if protocol not in PROTOCOLS:
        raise MTLError(f"no protocol {protocol!r}. There are: {', '.join(PROTOCOLS)}.")
    if not 0 <= fold < FOLDS:
        raise MTLError(f"no fold {fold}: there are {FOLDS}, 0 to {FOLDS - 1}")
    table = table.reset_index(drop=True)
    tasks = table.part.map({part: task for task, part in TASK_PARTS.items()}).to_numpy(object)
    roles = table.split.to_numpy(object).copy()
    reasons = pd.Series(pd.NA, index=table.index, dtype="object")
    if protocol != "paper":
        hidden = pd.Series(False, index=table.index)
        if protocol == "clean-folds":
            roles[table.part == "A"] = "train"
            roles[_in_fold(table, seed, fold)] = "test"
            hidden = (table.part == "B") & table.photo.isin(table.photo[table.part == "A"])
        reasons = _reasons(table.assign(split=roles)[~hidden]).reindex(table.index)
        reasons[hidden] = IN_PART_A
        roles[reasons.notna()] = "dropped"
        official = table.part[roles == "val"].unique()  # these parts have a validation split already
        training = np.flatnonzero((roles == "train") & ~table.part.isin(official))
        if len(training):
            roles[training[_validation(table.iloc[training], seed)]] = "val"
            # A part with an official validation split still trains on photographs that were carved here.
            seen = (roles == "train") & table.photo.isin(table.photo[roles == "val"]).to_numpy()
            roles[seen], reasons[seen] = "dropped", CHOOSES
    left_out = reasons.notna()
    dropped = table.loc[left_out, ["part", "split", "name"]].assign(reason=reasons[left_out])
    return Split(protocol, roles, tasks, dropped.reset_index(drop=True))


def with_few(parts: Split, table: pd.DataFrame, task: str, number: int, seed: int = 0) -> Split:
    """The same roles, but with only so many training photographs of a task; the seed chooses them.

    Args:
        parts: from `split`.
        table: that it was made of.
        task: 'grading' or 'segmentation'.
        number: how many stay, at least 1.

    Raises:
        MTLError: there are not so many.
    """
    rows = parts.rows("train", task)
    if not 1 <= number <= len(rows):
        raise MTLError(f"few photographs of {task}: {number} asked for, there are {len(rows)} to learn from")
    out = np.sort(np.random.default_rng(seed).permutation(rows)[number:])
    roles = parts.roles.copy()
    roles[out] = "dropped"
    left_out = table.reset_index(drop=True).loc[out, ["part", "split", "name"]].assign(reason=FEW)
    return replace(parts, roles=roles, dropped=pd.concat([parts.dropped, left_out], ignore_index=True))


def balanced_rows(
    rows: np.ndarray, grades: np.ndarray, total: int | None = None, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Photographs of which every grade has equally many (MTUnet, section Performance Study).

    Args:
        rows: positions in the table of graded photographs.
        grades: of the whole table.
        total: how many rows are wanted. None: five times the rarest grade, with each photograph once at the
            most, as in the paper (1,914 per grade of Kaggle's set). A grade with fewer photographs than its
            fifth repeats them, each as often as the next.
        rng: which photographs; None: seed 0.

    Returns:
        Positions, int; all grades that occur in `rows` have the same number, which is rounded up.

    >>> grades = np.array([0, 0, 0, 0, 1, 2, 2])
    >>> grades[balanced_rows(np.arange(7), grades)].tolist()
    [0, 1, 2]
    """
    rng = rng or np.random.default_rng(0)
    by_grade = [rows[grades[rows] == grade] for grade in np.unique(grades[rows])]
    each = min(map(len, by_grade)) if total is None else -(-total // len(by_grade))
    return np.concatenate([np.resize(rng.permutation(own), each) for own in by_grade])
