"""The named runs: name -> configuration, at the size of each profile."""

from __future__ import annotations

from dataclasses import replace

from mtl_utils.errors import MTLError
from mtl_utils.experiments import course, papers
from mtl_utils.experiments.base import BUNDLED, COURSE, DEEPMT_DR, MTUNET, PLDMLT_PAPER, REPORT, Experiment
from mtl_utils.experiments.papers import CLASSIFIERS
from mtl_utils.runtime import check_profile
from mtl_utils.training import Config

EXPERIMENTS: dict[str, Experiment] = {each.config.name: each for each in (*papers.RUNS, *course.RUNS)}

SIZES = {**papers.SIZES, **course.SIZES}
"""Family of runs -> profile -> what `mtl train --profile P` changes of a run's own settings."""
LESSON_SIZES = {**papers.LESSON_SIZES, **course.LESSON_SIZES}
"""The same for a chapter, which trains live, while the reader waits: smaller again."""


def experiment(name: str, profile: str | None = None, lesson: bool = False, **overrides) -> Config:
    """The configuration of a named run.

    Args:
        name: one of `EXPERIMENTS`.
        profile: decides the size; None: see `runtime.check_profile`.
        lesson: the smaller size at which a chapter trains live.
        **overrides: any field of `Config`.

    Raises:
        MTLError: no such experiment, profile or field.

    >>> experiment("shared-lambda-1", profile="paper").lambda_cls
    1.0
    """
    if name not in EXPERIMENTS:
        raise MTLError(f"no experiment {name!r}. There are: {', '.join(EXPERIMENTS)}.")
    profile = check_profile(profile)
    entry = EXPERIMENTS[name]
    sizes = dict((LESSON_SIZES if lesson else SIZES)[entry.family or entry.paper][profile])
    sizes |= entry.changes.get(f"{profile} lesson" if lesson else profile, {})
    for part in ("label_update", "hierarchy"):
        if update := sizes.pop(part, None):
            published = getattr(entry.config, part)
            sizes[part] = published and replace(published, **update)
    if entry.config.lesion_network:
        sizes["lesion_network"] = experiment(entry.config.lesion_network.name, profile, lesson=lesson)
    if entry.own_encoder:
        sizes = {key: value for key, value in sizes.items() if key not in BUNDLED}
    try:
        return replace(entry.config, **{**sizes, "profile": profile, **overrides})
    except TypeError as error:
        raise MTLError(f"experiment {name}: {error}") from error
