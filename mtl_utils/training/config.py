"""Everything that decides a run, and the network that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from mtl_utils.balancing import BALANCINGS, FIXED
from mtl_utils.data.augment import RECIPES
from mtl_utils.data.splits import Split, split, with_few
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import LESION_SPACE, LabelSpace, label_space
from mtl_utils.losses import MASK_LOSSES
from mtl_utils.systems.base import TASKS, FundusNetwork, MeanOfNetworks
from mtl_utils.systems.baselines import ARCHITECTURES, LesionBaseline
from mtl_utils.systems.deepmt_dr import DeepMTDR, Hierarchy
from mtl_utils.systems.findings_grader import FindingsGrader
from mtl_utils.systems.mtunet import MTUnet, MTUnetTwoStep
from mtl_utils.systems.pldmlt import PLDMLT, LabelUpdate
from mtl_utils.systems.shared_encoder import DECODER_CHANNELS, SharedEncoder

LAST, BEST_LOSS, BEST_ACCURACY = "last", "best-loss", "best-accuracy"
BALANCED_SYSTEMS = ("shared-encoder", "mtunet-c")
"""Where the encoder is all that the tasks share, so that conflict can be measured, and balanced, there."""
SYSTEMS = (
    "shared-encoder",
    "mtunet-a",
    "mtunet-b",
    "mtunet-c",
    "pldmlt",
    "deepmt-dr",
    "findings",
    *ARCHITECTURES,
)
_CHOICES = {
    "system": SYSTEMS,
    "recipe": RECIPES,
    "mask_loss": MASK_LOSSES,
    "balancing": BALANCINGS,
    "chosen": (BEST_ACCURACY, BEST_LOSS, LAST),
}
"""Settings with a few possible values."""
FIRST = "first"
"""Folder, inside a run's, of the network that is trained before: see `Config.builds_on_first`."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run. Defaults are the shared-encoder report's public configuration.

    Attributes:
        name: of the experiment.
        system: one of `SYSTEMS`.
        label_space: what the masks' channels mean; one of `label_spaces.LABEL_SPACES`.
        tasks: 'grading', 'segmentation', or both; of DeepMT-DR also 'isr', super-resolution.
        lambda_cls: lambda of the report's Eq. 1, alpha of MTUnet's Eq. 3, beta of PLDMLT's Eq. 3; used where
            there are two tasks.
        balancing: how the tasks share the encoder; one of `balancing.BALANCINGS`.
        conflict_every: measure the conflict of the tasks' gradients at every so many steps; 0: never.
        focal: alpha and gamma of the categorical focal loss for both tasks (PLDMLT's Eq. 2); None:
            cross-entropies.
        augment: augmentation, or resizing only.
        recipe: whose augmentation; one of `augment.RECIPES`.
        lesion_crops: of the recipe 'lesions': share of the crops that are cut around a lesion, each kind
            equally often; the others are cut anywhere (`data.patches`).
        mask_loss: of masks whose classes do not exclude each other, one of `losses.MASK_LOSSES`.
        ema: decay per step of an exponential moving average of the weights, which is what is judged and kept;
            None: the weights themselves.
        flips: the finished network answers with the mean of its logits for a photograph and for its three
            mirror images; while it learns one pass is enough.
        turns: that mean takes in the same four after a quarter turn.
        balanced: every grade equally often in training, as MTUnet's paper has it.
        first_tasks: tasks of a network that is trained before, with otherwise the same settings. It is step
            one of MTUnet's variant B; for every other system it makes labels for the photographs of the
            training split that lack one.
        pseudo_grades: learn both tasks from the photographs with masks alone, each with the grade that two
            classifiers gave it (`training.stage_one`, PLDMLT's stage 1).
        label_update: PLDMLT's label-update network; None: the pseudo grades stay as they are.
        hierarchy: DeepMT-DR's settings; None for every other system.
        lesion_network: of the system 'findings', the lesion network that it grades from. It is trained
            before, with this run's encoder, protocol and seed; None for every other system.
        encoder_name, encoder_weights: see `encoders.create_encoder`.
        dropout: before the grading head.
        decoder_channels: of the decoder's blocks, the deepest first (shared-encoder and MTUnet).
        upsampling: of MTUnet's decoder; see `systems.mtunet.MirrorBlock`.
        grading_size: side of graded pictures, in pixels.
        segmentation_size: side of segmented pictures; crops of `crop_size` are learned from, whole pictures
            judged.
        batch_size: photographs of each task in a step.
        one_pass: the photographs of both tasks go through the encoder together; False: a pass per task, as in
            the report.
        epochs: at the most; an epoch takes as many samples of each task as the larger task has photographs.
        rounds: an epoch takes so many times as many: a longer run with no more validations.
        steps_per_epoch: cap on an epoch's steps, for lessons; None: no cap.
        learning_rate, lr_gamma: Adam's, and its factor per epoch (ExponentialLR).
        patience: epochs without a lower validation loss until training stops.
        chosen: the checkpoint that counts: 'best-accuracy', 'best-loss' or 'last'.
        protocol, fold: see `data.splits`.
        members: so many networks of one split, each with draws of its own, answer together with the mean of
            their logits.
        draws: the seed of weights, order, augmentation and dropout, where it is not the seed of the split.
        few_masks: learn from so many photographs with masks only, which the seed chooses; 0: from all.
        seed: rules weights, split, order, augmentation and dropout.
        profile: the profile that the sizes came from.
    """

    name: str
    system: str = "shared-encoder"
    label_space: str = LESION_SPACE.name
    tasks: tuple[str, ...] = TASKS
    lambda_cls: float = 0.1
    balancing: str = FIXED
    conflict_every: int = 0
    focal: tuple[float, float] | None = None
    augment: bool = True
    recipe: str = "report"
    lesion_crops: float = 0.0
    mask_loss: str = "bce"
    ema: float | None = None
    flips: bool = False
    turns: bool = False
    balanced: bool = False
    first_tasks: tuple[str, ...] = ()
    pseudo_grades: bool = False
    label_update: LabelUpdate | None = None
    hierarchy: Hierarchy | None = None
    lesion_network: Config | None = None
    encoder_name: str = "efficientnet-b0"
    encoder_weights: str | None = "imagenet"
    dropout: float = 0.2
    decoder_channels: tuple[int, ...] = DECODER_CHANNELS
    upsampling: str = "transposed"
    grading_size: int = 256
    segmentation_size: int = 512
    crop_size: int = 256
    batch_size: int = 8
    one_pass: bool = False
    epochs: int = 50
    rounds: int = 1
    steps_per_epoch: int | None = None
    learning_rate: float = 1e-3
    lr_gamma: float = 0.95
    patience: int = 10
    chosen: str = BEST_ACCURACY
    protocol: str = "clean"
    fold: int = 0
    few_masks: int = 0
    members: int = 1
    draws: int | None = None
    seed: int = 0
    profile: str = "paper"

    def __post_init__(self):
        self._check_names()
        if self.system in ARCHITECTURES and self.tasks != ("segmentation",):
            raise MTLError(f"{self.name}: the system {self.system!r} has one task, segmentation")
        if self.system == "shared-encoder" and "segmentation" in self.tasks and self.space != LESION_SPACE:
            raise MTLError(f"{self.name}: 'shared-encoder' draws the label space {LESION_SPACE.name!r} alone")
        if self.system == "mtunet-b" and (self.first_tasks, self.tasks) != (("segmentation",), TASKS):
            raise MTLError(f"{self.name}: variant B of MTUnet has both tasks, and first_tasks segmentation")
        if self.focal and "segmentation" in self.tasks and not self.space.exclusive:
            raise MTLError(
                f"{self.name}: the focal loss needs exclusive classes; {self.label_space} has none"
            )
        fits = self.system == "pldmlt" and self.tasks == TASKS and self.pseudo_grades and self.focal
        if self.label_update and (self.dropout or not fits):  # dropout would change between its passes
            raise MTLError(
                f"{self.name}: a label update needs the system 'pldmlt' with both tasks, pseudo grades, the "
                "focal loss and no dropout"
            )
        if (self.system == "deepmt-dr") != (self.hierarchy is not None):
            raise MTLError(f"{self.name}: the system 'deepmt-dr', and no other, has a hierarchy")
        self._check_balancing()
        self._check_findings()
        if self.pseudo_grades and (self.first_tasks or self.crop_size != self.segmentation_size):
            raise MTLError(f"{self.name}: pseudo grades need whole photographs, and no first_tasks")
        for side in (self.grading_size, self.segmentation_size, self.crop_size):
            if side < 32 or side % 32:
                raise MTLError(
                    f"picture side {side} px: the networks halve it five times, so give a multiple of 32"
                )
        for setting in ("batch_size", "epochs", "rounds", "steps_per_epoch", "patience"):
            if (number := getattr(self, setting)) is not None and number < 1:
                raise MTLError(f"{setting} {number} is below 1")
        self._check_recipe()
        if self.mask_loss != "bce" and (self.space.exclusive or self.focal):
            raise MTLError(f"{self.name}: exclusive classes and the focal loss have no mask_loss but 'bce'")
        alone = not (self.builds_on_first or self.pseudo_grades or self.hierarchy or self.own_backward)
        plain = self.members == 1 and self.draws is None
        if self.members < 1 or not (plain or alone):
            raise MTLError(
                f"{self.name}: members, one or more, build on nothing, have no hierarchy and measure or "
                "balance no gradients; nor has a run with draws of its own"
            )
        if self.turns and not self.flips:
            raise MTLError(f"{self.name}: turns go with flips")
        if self.crop_size > self.segmentation_size:
            raise MTLError(
                f"crop_size {self.crop_size} is larger than segmentation_size {self.segmentation_size}"
            )
        if self.one_pass and self.grading_size != self.crop_size:
            raise MTLError(
                f"one_pass needs pictures of one size: grading_size {self.grading_size}, "
                f"crop_size {self.crop_size}"
            )

    def _check_names(self) -> None:
        for setting, known in _CHOICES.items():
            if (given := getattr(self, setting)) not in known:
                raise MTLError(f"no {setting} {given!r}. There are: {', '.join(known)}.")
        if not self.tasks:
            raise MTLError(f"{self.name}: a run learns one task at least")
        if wrong := {*self.tasks, *self.first_tasks}.difference(TASKS, ("isr",)):
            raise MTLError(f"no task {wrong.pop()!r}. There are: {', '.join(TASKS)}, isr.")

    def _check_recipe(self) -> None:
        crops_only = self.recipe == "lesions"
        if crops_only and ("grading" in self.tasks or self.first_tasks or not self.augment):
            raise MTLError(f"{self.name}: the recipe 'lesions' is for given masks alone: a crop has no grade")
        if crops_only and self.space.has_outside:
            raise MTLError(f"{self.name}: in a crop, the recipe 'lesions', nobody can tell what is outside")
        if not 0 <= self.lesion_crops <= 1:
            raise MTLError(f"lesion_crops {self.lesion_crops} is a share: give 0 to 1")
        if self.lesion_crops and not crops_only:
            raise MTLError(f"{self.name}: lesion_crops belong to the recipe 'lesions'")
        if self.recipe == "pldmlt" and self.crop_size != self.segmentation_size:
            raise MTLError(f"{self.name}: the recipe 'pldmlt' cuts by itself: crop_size is segmentation_size")

    def _check_balancing(self) -> None:
        if self.conflict_every < 0:
            raise MTLError(f"conflict_every {self.conflict_every} is below 0")
        if not self.own_backward:
            return
        if self.system not in BALANCED_SYSTEMS or set(self.tasks) != set(TASKS) or self.label_update:
            raise MTLError(
                f"{self.name}: balancing and conflict_every need both tasks, grading and segmentation, of "
                f"{' or '.join(BALANCED_SYSTEMS)}, and no label update"
            )
        if self.balancing != FIXED and self.lambda_cls != 1:
            raise MTLError(
                f"{self.name}: {self.balancing} finds the weights itself, and lambda_cls {self.lambda_cls} "
                "would not be used: set it to 1"
            )

    def _check_findings(self) -> None:
        network = self.lesion_network
        if (self.system == "findings") != (network is not None):
            raise MTLError(f"{self.name}: the system 'findings', and no other, has a lesion_network")
        if network is None:
            return
        unet = network.system == "unet" and network.members == 1 and not network.space.exclusive
        if not unet or self.tasks != ("grading",) or self.augment or self.epochs != 1:
            raise MTLError(
                f"{self.name}: the system 'findings' grades, in one epoch without augmentation, and builds "
                "on one unet whose lesions do not exclude each other"
            )
        if self.grading_size != network.segmentation_size:
            raise MTLError(
                f"{self.name}: grading_size {self.grading_size}, but the lesion network knows photographs of "
                f"{network.segmentation_size} px"
            )

    @property
    def draws_seed(self) -> int:
        """The seed of weights, order, augmentation and dropout."""
        return self.seed if self.draws is None else self.draws

    def member(self, number: int) -> Config:
        """The run of one of several networks. Runs of two seeds share none of them."""
        draws = (self.seed * self.members + number) % 2**32  # numpy takes no larger seed
        return replace(self, members=1, draws=draws)

    @property
    def own_backward(self) -> bool:
        """Are gradients taken task by task, in place of those of one sum?"""
        return self.balancing != FIXED or self.conflict_every > 0

    def size(self, task: str) -> int:
        """Side of a task's whole pictures."""
        return self.grading_size if task == "grading" else self.segmentation_size

    @property
    def copy_size(self) -> int:
        """Side of the working copy that this run reads: the larger of both, also with one task alone. Runs
        that are compared shall see equally sharp photographs.
        """
        return max(self.grading_size, self.segmentation_size)

    def photographs_of(self, task: str) -> str:
        """The task, 'grading' or 'segmentation', from whose photographs a task learns."""
        if task == "isr":  # any photograph teaches it, and there are more graded ones
            return "grading"
        return "segmentation" if self.pseudo_grades else task

    def judged_on(self, task: str) -> str:
        """The task by whose photographs a task is validated and judged: its own, but with pseudo grades under
        'clean-folds' the photographs with masks, each of which some fold leaves out.
        """
        own = task == "grading" and self.pseudo_grades and self.protocol != "clean-folds"
        return task if own else self.photographs_of(task)

    @property
    def monitored(self) -> str:
        """The validation metric that the checkpoint 'best-accuracy' has the highest value of."""
        if "grading" in self.tasks:
            return "val/accuracy"
        return "val/dice" if "segmentation" in self.tasks else "val/psnr"

    @property
    def builds_on_first(self) -> bool:
        """Is another network trained before: one with `first_tasks`, a lesion network, or DeepMT-DR's first
        stage?
        """
        staged = self.hierarchy is not None and self.hierarchy.stage == 2
        return bool(self.first_tasks) or self.lesion_network is not None or staged

    def parts(self, table: pd.DataFrame) -> Split:
        """The roles of a data set's photographs in this run."""
        parts = split(table, self.protocol, self.seed, self.fold)
        if self.few_masks:
            parts = with_few(parts, table, "segmentation", self.few_masks, self.seed)
        return parts

    @property
    def space(self) -> LabelSpace:
        """What the masks' channels mean."""
        return label_space(self.label_space)


def build_network(config: Config) -> FundusNetwork | DeepMTDR | MeanOfNetworks:
    """The network of a run, with its encoder's weights loaded."""
    if config.members > 1:
        return MeanOfNetworks([build_network(replace(config, members=1)) for _ in range(config.members)])
    encoder = (config.encoder_name, config.encoder_weights)
    if config.system == "shared-encoder":
        return SharedEncoder(*encoder, config.tasks, config.dropout, config.decoder_channels)
    if config.system in ARCHITECTURES:
        return LesionBaseline(config.system, *encoder, config.space)
    if config.system == "pldmlt":
        return PLDMLT(*encoder, config.tasks, config.space, config.dropout, config.decoder_channels)
    if config.system == "deepmt-dr":
        return DeepMTDR(*encoder, config.tasks, config.hierarchy)
    if config.system == "findings":
        return FindingsGrader(*encoder, config.lesion_network.space, config.seed)
    settings = {
        "space": config.space,
        "dropout": config.dropout,
        "decoder_channels": config.decoder_channels,
        "upsampling": config.upsampling,
    }
    if config.system == "mtunet-b":
        return MTUnetTwoStep(*encoder, **settings)
    return MTUnet(*encoder, config.tasks, variant=config.system[-1].upper(), **settings)


def flat_settings(config: dict) -> dict[str, object]:
    """All settings of `asdict(Config)` by name, those of a part by both names, as 'hierarchy.enlarge'."""
    found: dict[str, object] = {}
    for name, value in config.items():
        parts = value if isinstance(value, dict) else None
        found |= {f"{name}.{key}": each for key, each in parts.items()} if parts else {name: value}
    return found


def first_config(config: Config) -> Config:
    """The run that comes before a run that builds on one: see `Config.builds_on_first`."""
    if config.hierarchy:
        first = config.hierarchy.first_stage()
        return replace(
            config,
            name=f"{config.name}-{FIRST}",
            hierarchy=first,
            epochs=first.first_epochs,
            learning_rate=first.first_learning_rate,
        )
    if config.lesion_network:
        same = ("encoder_name", "encoder_weights", "protocol", "fold", "seed", "profile")
        return replace(config.lesion_network, **{name: getattr(config, name) for name in same})
    system = "mtunet-c" if config.system == "mtunet-b" else config.system
    name = f"{config.name}-{FIRST}"
    return replace(config, name=name, system=system, tasks=config.first_tasks, first_tasks=())
