"""From a record to the command that makes its run again."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict

from mtl_utils.errors import MTLError
from mtl_utils.experiments import experiment
from mtl_utils.systems.deepmt_dr import Hierarchy
from mtl_utils.systems.pldmlt import LabelUpdate
from mtl_utils.training import Config, flat_settings

OPTIONS = {"encoder_name": "--encoder", "encoder_weights": "--weights", "protocol": "--protocol"}
"""Settings that `mtl train` can override -> its option."""

_PARTS = {"label_update": LabelUpdate(), "hierarchy": Hierarchy(), "lesion_network": Config("lesions")}
_GRADED, _SYNTHETIC = "graded set", "synthetic set"  # as `WorkingCopy.label` names them


def command(record: dict) -> str:
    """The command line, for bash, that makes a recorded run again.

    The same photographs, code, CPU and number of threads give the same figures; a GPU adds in an order of its
    own, and they differ a little. What comes before (the first network of MTUnet and DeepMT-DR, PLDMLT's
    stage 1) the command makes as well, as the recorded run has it; `--first` only saves its time. Where
    today's experiment has other settings, a remark at the end says so: then only the commit that is named
    there gives the same run.

    Args:
        record: from `records.load_records`.

    >>> command({"experiment": "unet", "profile": "cpu", "seed": 1, "protocol": "clean", "data": "IDRiD",
    ...          "code": "0.1.0 (0123456789ab)", "device": "CPU, 1 threads",
    ...          "config": asdict(experiment("unet", "cpu", seed=1))})
    'OMP_NUM_THREADS=1 mtl train unet --data path/to/IDRiD --profile cpu --seed 1'
    """
    name, profile = record["experiment"], record["profile"]
    words = ["mtl", "train", name, *_data_options(record["data"]), "--profile", profile]
    words += ["--seed", str(record["seed"])]
    then, today = flat_settings(filled(record)), _today(record)
    for key, option in OPTIONS.items():
        if today and not _same(then[key], today[key]):
            words += [option, str(then[key] or "none")]
    for key in ("devices", "nodes"):
        if record.get(key, 1) > 1:
            words += [f"--{key}", str(record[key])]
    on_cpu = re.match(r"CPU, (\d+) threads", record["device"])
    if on_cpu and profile in ("gpu", "paper"):
        words.append("--on-cpu")
    environment = [f"OMP_NUM_THREADS={on_cpu[1]}"] if on_cpu else []
    if record["data"].startswith(_SYNTHETIC):
        environment.append("MTL_DATA=")  # else the reader's own photographs would take its place
    return " ".join([*environment, shlex.join(words), *_remark(record)])


def commit(record: dict) -> str:
    """The git commit of the code that made a record, as '0123456789ab'; its version outside a checkout. Where
    other code had trained the run, it is that which judged: it knows the experiment's name.
    """
    code = record.get("judged_by", record["code"])
    found = re.search(r"\(([0-9a-f]+)", code)
    return found[1] if found else code


def changed_settings(record: dict) -> dict[str, tuple[object, object]]:
    """Settings in which a recorded run differs from today's experiment, and which `mtl train` has no option
    for: name -> (then, today). Those of a part have both names, as 'hierarchy.scale'.

    Raises:
        MTLError: there is no such experiment any more.
    """
    then = flat_settings(filled(record))
    today = _today(record)
    if today is None:
        raise MTLError(f"no experiment {record['experiment']!r} for the profile {record['profile']!r} today.")
    return {
        key: (then.get(key), today.get(key))
        for key in sorted(then.keys() | today.keys())
        if key not in OPTIONS and not _same(then.get(key), today.get(key))
    }


def filled(record: dict) -> dict:
    """A record's configuration. A setting that is younger than the record had its default."""
    config = asdict(Config(record["experiment"])) | record["config"]
    for part, default in _PARTS.items():
        if config[part]:
            config[part] = asdict(default) | config[part]
    return config


def _today(record: dict) -> dict[str, object] | None:
    """The settings that `mtl train` would take now; None where it knows no such run."""
    try:
        config = experiment(record["experiment"], record["profile"], seed=record["seed"])
    except MTLError:
        return None
    return flat_settings(asdict(config))


def _same(then: object, today: object) -> bool:
    """Equal, as far as a record tells: it holds four digits of a number, and a list for a tuple."""
    if isinstance(then, list | tuple) and isinstance(today, list | tuple):
        return len(then) == len(today) and all(map(_same, then, today))
    if isinstance(then, float) or isinstance(today, float):
        return None not in (then, today) and f"{then:.4g}" == f"{today:.4g}"
    return then == today or (then, today) in ((None, "none"), ("none", None))


def _data_options(label: str) -> list[str]:
    """From `WorkingCopy.label`, as 'IDRiD + DiaRetDB1 + graded set'."""
    main, *further = label.split(" + ")
    options = [] if main == _SYNTHETIC else ["--data", f"path/to/{main}"]
    for name in further:
        options += ["--graded", "path/to/graded"] if name == _GRADED else ["--masked", f"path/to/{name}"]
    return options


def _remark(record: dict) -> list[str]:
    try:
        changed = changed_settings(record)
    except MTLError as error:
        return [f" # {error} The run was made by commit {commit(record)}"]
    if not changed:
        return []
    texts = ", ".join(f"{name} {then} (today {today})" for name, (then, today) in changed.items())
    return [f" # made with other settings, by commit {commit(record)}: {texts}"]
