"""Which photographs an epoch shows, in which order, with which labels."""

from __future__ import annotations

import multiprocessing

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from mtl_utils.data.augment import resize_recipe, training_recipe
from mtl_utils.data.dataset import UNKNOWN_GRADE, FundusDataset
from mtl_utils.data.patches import LesionCrops
from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.data.splits import Split, balanced_rows
from mtl_utils.pseudo import LabelStore, WithGrades, WithMadeLabels, known_grades
from mtl_utils.pseudo_grades import PseudoGrades
from mtl_utils.runtime import usable_cores
from mtl_utils.systems.base import TASKS
from mtl_utils.training.config import Config
from mtl_utils.training.distributed import Place, judged_share, training_share

EVALUATION_BATCH = 4
WINDOW = 1.2
"""Side of the window that the recipe 'lesions' gets, as a multiple of the crop that it makes."""
MADE_SHARE = 0.5
"""Share of segmentation's training photographs with a made mask, where there are such: else the few true
masks would hardly be seen any more."""


def derived_seed(seed: int, *place: int) -> int:
    """A seed for a place (epoch, step) of a run. Zeros at the end of a place do not count: an epoch and its
    step 0 share theirs.
    """
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])


class FundusData(L.LightningDataModule):
    """The loaders of a run. Those of training are built anew each epoch, so that order and augmentation
    follow from seed and epoch.

    Args:
        role: what is judged, 'test' or 'val'.
        labels: made labels; they are learned from, and never judged with. Grading then draws from all
            training photographs; of segmentation's photographs a share of `MADE_SHARE` have a made mask.
        pseudo: grades of the photographs with masks, where `Config.pseudo_grades` asks for them: both tasks
            then learn from these photographs. Under 'clean-folds' they are validated with too, and judged
            with those true grades that are known; else true grades of part B do both.
    """

    def __init__(
        self,
        config: Config,
        copy: WorkingCopy,
        parts: Split,
        role: str = "test",
        labels: LabelStore | None = None,
        pseudo: PseudoGrades | None = None,
    ):
        super().__init__()
        self.config, self.copy, self.parts, self.role = config, copy, parts, role
        self.learned_from = self.judged_from = copy
        if labels:
            self.learned_from = WithMadeLabels(copy, labels)
        if config.pseudo_grades:
            self.learned_from = self.judged_from = WithGrades(copy, known_grades(copy.table))
            if pseudo:  # not needed to judge
                self.learned_from = WithGrades(copy, pseudo.by_row(len(copy))[0])

    @property
    def _place(self) -> Place:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> CombinedLoader:
        seed = derived_seed(self.config.draws_seed, self.trainer.current_epoch)
        # With pseudo grades each photograph has both labels, and one loader is enough. Super-resolution
        # learns from the photographs of the other tasks, where there are such.
        tasks = ("segmentation",) if self.config.pseudo_grades else self.config.tasks
        tasks = [task for task in tasks if task != "isr"] or tasks
        return CombinedLoader({task: self._train_loader(task, seed) for task in tasks}, "max_size_cycle")

    def val_dataloader(self) -> list[DataLoader]:
        return [self.evaluation_loader(task, "val") for task in self.config.tasks]

    def test_dataloader(self) -> list[DataLoader]:
        return [self.evaluation_loader(task, self.role) for task in self.config.tasks]

    def _train_loader(self, task: str, seed: int) -> DataLoader:
        config, size = self.config, self.config.size(task)
        crop = None if task == "grading" else config.crop_size
        transform = (
            training_recipe(config.recipe, task, size, crop) if config.augment else resize_recipe(size, crop)
        )
        rows = self._training_rows(task, np.random.default_rng(seed))
        windows = None
        if config.recipe == "lesions":
            scale = self.copy.size / size
            side = min(round(WINDOW * config.crop_size * scale), self.copy.size)
            windows = LesionCrops(side, config.lesion_crops)
        dataset = FundusDataset(self.learned_from, rows, transform, seed, config.space, windows)
        several = self._place[1] > 1
        return DataLoader(
            dataset,
            batch_size=config.batch_size // self._place[1],
            sampler=training_share(len(dataset), config.batch_size, self._place) if several else None,
            # A last batch of one photograph would upset batch normalisation.
            drop_last=len(dataset) > config.batch_size,
            **loading(),
        )

    def _training_rows(self, task: str, rng: np.random.Generator) -> np.ndarray:
        """The photographs of an epoch in their order.

        IDRiD has eight graded photographs for each one with masks. An epoch is as long as the larger task in
        every run, and photographs with masks come back, each time augmented anew: the single-task and the
        multi-task network take equally many steps, so none wins by having trained longer.
        """
        graded, drawn = (self.parts.rows("train", each) for each in TASKS)
        longest = max(len(graded), len(drawn)) * self.config.rounds
        rows, others = (drawn, graded) if task == "segmentation" else (graded, drawn)
        made = self._rows_with_made_labels(task, others)
        if len(made) and task == "segmentation":
            rows = np.resize(rows, longest - round(MADE_SHARE * longest))
            made = np.resize(rng.permutation(made), longest - len(rows))
        rows = np.concatenate([rows, made])
        if task == "grading" and self.config.balanced:
            rows = balanced_rows(rows, self.learned_from.grades, longest, rng)
        # Shuffled here and not by the loader: its order would depend on how often it was asked for one, and
        # Lightning asks once more when it resumes.
        return rng.permutation(np.resize(rows, longest))

    def _rows_with_made_labels(self, task: str, rows: np.ndarray) -> np.ndarray:
        """Those of the other task's photographs to which a network gave this task's label."""
        source = self.learned_from
        if source is self.copy:
            return rows[:0]
        labelled = (
            source.grades[rows] != UNKNOWN_GRADE if task == "grading" else [*map(source.has_mask, rows)]
        )
        return rows[np.array(labelled, bool)]

    def label_loader(self, seed: int | None) -> DataLoader:
        """Each training photograph with a pseudo grade once: augmented and shuffled, or with no seed as it is
        and in the table's order.
        """
        config, rows = self.config, self.parts.rows("train", "segmentation")
        transform = resize_recipe(config.segmentation_size)
        if seed is not None:
            rows = np.random.default_rng(seed).permutation(rows)
            if config.augment:
                transform = training_recipe(config.recipe, "segmentation", config.segmentation_size, None)
        dataset = FundusDataset(self.learned_from, rows, transform, seed or 0, config.space)
        return DataLoader(
            dataset,
            batch_size=config.batch_size,
            drop_last=seed is not None and len(dataset) > config.batch_size,
            **loading(),
        )

    def evaluation_loader(self, task: str, role: str) -> DataLoader:
        """Whole photographs in the table's order; of several processes each has its share."""
        rows, source = self.parts.rows(role, self.config.judged_on(task)), self.copy
        if task == "grading" != self.config.judged_on(task):  # grades of photographs with masks
            source = self.learned_from if role == "val" else self.judged_from
            rows = rows[source.grades[rows] != UNKNOWN_GRADE]
        rows = judged_share(rows, self._place)
        dataset = FundusDataset(source, rows, resize_recipe(self.config.size(task)), space=self.config.space)
        return DataLoader(dataset, batch_size=EVALUATION_BATCH, **loading())


def loading() -> dict[str, object]:
    """How a loader works on this machine. On a GPU machine processes load, as the CPU is free, into pinned
    memory, from which the GPU fetches a batch while it computes. On a CPU the network needs the CPU, and the
    working copy is quick.
    """
    gpu = torch.cuda.is_available()
    # Processes that are not forked (Windows) would each get the whole working copy as a message, every epoch.
    forked = "fork" in multiprocessing.get_all_start_methods()
    workers = min(8, usable_cores()) if gpu and forked else 0
    return {
        "num_workers": workers,
        "pin_memory": gpu,
        "worker_init_fn": one_thread,
        "multiprocessing_context": "fork" if workers else None,
    }


def one_thread(worker: int) -> None:
    """In each loader process: OpenCV would start as many threads as there are cores, in every one."""
    cv2.setNumThreads(1)
