"""Records: whole or not there, beside the papers' tables, pending where nobody has run yet."""

from __future__ import annotations

import errno
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from mtl_utils import __version__
from mtl_utils.analysis import paired_bootstrap
from mtl_utils.errors import MTLError
from mtl_utils.experiments import EXPERIMENTS, experiment
from mtl_utils.files import write_whole
from mtl_utils.records import (
    PAPER_TABLES,
    about,
    beside,
    compare_runs,
    ladder,
    load_records,
    make_record,
    paired_difference,
    record_name,
    results_folder,
    rows_of,
    runs_of,
    segmentation_scores,
    write_record,
)
from mtl_utils.runtime import code_version
from mtl_utils.training import Config, fit

TABLE, AUPR = "Shared-encoder report, Table 2", "segmentation/aupr/mean"


def record(**changes) -> dict:
    basis = {
        "schema": 1, "experiment": "shared-lambda-0.1", "profile": "cpu", "protocol": "clean",
        "data": "IDRiD", "split": "test", "encoder_name": "resnet18", "seed": 3, "epochs": 2, "device": "CPU",
        "seconds": 90.0, "date": "2026-01-01", "code": "0.1.0 (0123456789ab)",
        "config": {"tasks": ["grading", "segmentation"], "grading_size": 64, "segmentation_size": 96},
        "grading/accuracy": 0.5,
        "segmentation/report_dice": 0.123456,
    }  # fmt: skip
    return {**basis, **changes}


def test_a_record_comes_back_rounded_to_four_digits(tmp_path):
    path = write_record(record(nan=float("nan")), tmp_path)
    assert path.name == "shared-lambda-0.1-cpu-seed3.json"
    (loaded,) = load_records(tmp_path)
    assert loaded["segmentation/report_dice"] == 0.1235
    assert loaded["nan"] is None
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_replaced_together_or_not_at_all(tmp_path, monkeypatch):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    write_whole({one: b"1", two: b"2"})
    write = Path.write_bytes

    def full_disk(path, content):
        write(path, content[:1])
        if "two" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"No space left.*two\.json"):
        write_whole({one: b"11", two: b"22"})
    assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2") and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "changes",
    [{"config": []}, {"config": {}}, {"experiment": []}, {"seconds": None}, {"grading/accuracy": "0.5"}],
)
def test_a_record_that_lacks_something_is_named(tmp_path, changes):
    broken = {key: value for key, value in {**record(), **changes}.items() if value is not None}
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(MTLError, match=r"broken\.json is no record .*Give a folder"):
        load_records(tmp_path)


def test_a_folder_without_records_is_named(tmp_path):
    with pytest.raises(MTLError, match=r"no records in .*: those of a run lie in the run's own folder"):
        load_records(tmp_path)


@pytest.mark.parametrize(
    "content", ["{ half", "[]", '{"experiment": "x"}', '{"experiment": "x", "schema": 1}', '{"schema": 99}']
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "damaged.json").write_text(content)
    with pytest.raises(MTLError, match=r"damaged\.json"):
        load_records(tmp_path)


def test_ours_stand_below_the_papers_rows_and_missing_runs_are_pending():
    shown = beside([record()], TABLE).reset_index()
    ours = shown[shown.run == "ours: shared-lambda-0.1"].iloc[0]
    assert (ours["Accuracy"], ours["minutes"], ours["protocol"]) == (
        50.0,
        1.5,
        "clean",
    )  # percent, as the report prints
    pending = shown[shown.protocol == "pending"]
    assert list(pending.run) == ["ours: grading-only", "ours: segmentation-only"]
    assert pending[list(PAPER_TABLES[TABLE].columns)].isna().all(axis=None)
    with pytest.raises(MTLError, match="Table 2"):
        beside([], "Table 9")


def test_the_reports_table_is_as_printed():
    rows = dict(PAPER_TABLES[TABLE].rows.values())
    assert rows["Classification Only"] == (1.4005, None, 60.19, None)
    assert rows["Segmentation Only"] == (None, 0.0261, None, 0.6806)
    assert rows["Multitask"] == (1.5739, 0.0178, 62.14, 0.7029)


def mtunet(seed: int, red: float, **changes) -> dict:
    """A record of MTUnet; runs of one experiment differ in their seeds only."""
    config = asdict(Config("mtunet-c-semi")) | {"seed": seed, **changes}
    return record(experiment="mtunet-c-semi", seed=seed, config=config, **{"segmentation/dice/red": red})


def test_runs_with_several_seeds_are_averaged_and_others_are_not():
    runs = [mtunet(0, 0.4), mtunet(1, 0.5), mtunet(2, 0.6), mtunet(0, 0.9, epochs=12)]
    shown = beside(runs, "MTUnet, Table 2").reset_index()
    ours = shown[shown.run == "ours: mtunet-c-semi"]
    # 40, 50 and 60 % have the mean 50 and the standard deviation 10.
    assert list(ours["Red lesions"]) == ["50.00 ± 10.00", 90.0]
    assert list(ours.seed) == ["0, 1, 2", "0"]
    printed = shown[shown.run == "paper: MTUNet"].iloc[0]
    assert (printed["Red lesions"], printed["Yellow lesions"]) == ("75.15 ± 0.78", "84.27 ± 0.46")
    # Runs that answer the same question stand below the paper's row, pending where nobody made them.
    assert list(shown.run[-2:]) == ["ours: mtunet-c", "ours: mtunet-initial"]


def test_nothing_of_ours_stands_beside_private_photographs():
    shown = beside([mtunet(0, 0.4)], "MTUnet, Table 4")
    assert set(shown.protocol) == {"paper"}


def test_a_paired_comparison_needs_two_pairs():
    runs = [record(seed=seed, x=seed / 10, experiment=name) for name, seed in (("a", 0), ("a", 1), ("b", 0))]
    assert paired_difference(runs, "a", "b", ["x"]).empty


def test_a_paired_t_test_by_hand():
    values = {"a": (0.50, 0.62, 0.74), "b": (0.40, 0.50, 0.60)}
    runs = [
        record(seed=seed, x=x, experiment=name)
        for name, all_x in values.items()
        for seed, x in enumerate(all_x)
    ]
    row = paired_difference(runs, "a", "b", ["x"]).loc["x"]
    # Differences 0.10, 0.12, 0.14: mean 0.12, standard deviation 0.02, standard error 0.02 / sqrt(3).
    # Two degrees of freedom: t(0.975) = 4.302653; p = 1 - t / sqrt(t^2 + 2) with t = 0.12 / 0.011547.
    assert row.difference == pytest.approx(0.12)
    assert (row.low, row.high) == pytest.approx((0.12 - 4.302653 * 0.0115470, 0.12 + 4.302653 * 0.0115470))
    t = 0.12 / 0.0115470
    assert row.p == pytest.approx(1 - t / (t**2 + 2) ** 0.5, rel=1e-4)
    assert row.seeds == 3


def test_a_recorded_label_update_costs_at_most_four_plain_steps():
    # On a processor: the one record of a GPU was measured while five other runs used it (4.2 times).
    runs = [run for run in load_records() if run["device"].startswith("CPU")]
    measured = [run["pseudo_grades"] for run in runs if "pseudo_grades" in run]
    measured = [grades["update_costs"] for grades in measured if "update_costs" in grades]
    assert measured
    for costs in measured:
        assert 1 < costs["update, first order"]["times"] <= 4
        assert 1 < costs["update, second order"]["times"] <= 4


@pytest.mark.parametrize("path", sorted(results_folder().glob("*.json")), ids=lambda path: path.stem)
def test_recorded_runs_say_how_they_were_made(path):
    made = json.loads(path.read_text())
    assert path.name == record_name(made)
    assert made["experiment"] in EXPERIMENTS
    assert made["data"] in ("IDRiD", "synthetic set")
    made_by = made["code"] + made.get("judged_by", "")
    assert "+changes" not in made_by, "made by code that was never committed"
    for key in (
        "protocol",
        "seed",
        "device",
        "seconds",
        "versions",
        "config",
        "data_fingerprint",
        "date",
        "split",
    ):
        assert made[key] not in (None, ""), key
    assert path.stat().st_size < 300_000


# ------------------------------------------------------------------------------ the list of a record's keys

NAMES = {
    "TASK": "grading|segmentation|isr",
    "CLASS": "MA|HE|EX|SE|OD|red|yellow|disc|lesion|background|mean|mean_with_disc",
    "GRADE": "[0-4]|mean",
    "NAME": r"[\w/]+",
    "STEP": "[a-z ,]+",
    "PACKAGE": "[a-z-]+",
    # The settings of a lesion network are a configuration again.
    "SETTING": "(?:lesion_network/)?(?:"
    + "|".join(field.name for field in fields(Config))
    + "|(?:label_update|hierarchy)/[a-z_]+)",
}


def listed() -> list[str]:
    """The first column of the tables in book/results/README.md."""
    page = (ROOT / "book/results/README.md").read_text()
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def pattern(keys: list[str]) -> re.Pattern:
    """Matches what a list of keys stands for."""
    start = keys.index("TASK/loss")
    metrics = keys[start : keys.index("confusion")]
    metric = "(?:" + "|".join(map(spelled, metrics)) + ")(?:/low|/high)?"
    every = [spelled(key).replace("METRIC", metric) for key in keys] + [metric]
    every.append(spelled("pseudo_grades/measured/STEP/(accuracy|qwk)/(low|high)"))
    every.append(spelled("first_history[]/NAME"))
    return re.compile("|".join(f"(?:{each})" for each in every))


def spelled(key: str) -> str:
    text = key.replace("[]", r"\[\]")
    for name, options in NAMES.items():
        text = re.sub(rf"(?<![A-Z]){name}(?![A-Z])", lambda _, options=options: f"(?:{options})", text)
    return text


def flat_keys(value: object, path: str = "") -> Iterator[str]:
    """All keys of a record as paths: 'photographs/grading/train', 'history[]/epoch'."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from flat_keys(each, f"{path}/{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for each in value:
            yield from flat_keys(each, f"{path}[]")
    else:
        yield path


@pytest.mark.parametrize("which", ["recorded", "fresh"])
def test_every_key_of_a_record_is_listed_with_its_meaning(which, synthetic_copy, tmp_path):
    records = load_records()
    if which == "fresh":
        config = experiment("shared-lambda-0.1", "smoke", epochs=1, steps_per_epoch=1)
        write_record(make_record(fit(config, synthetic_copy, tmp_path / "run"), synthetic_copy), tmp_path)
        records = load_records(tmp_path)
    keys = {key for each in records for key in flat_keys(each)}
    known = pattern(listed())
    assert {key for key in keys if not known.fullmatch(key)} == set()


def test_an_unlisted_key_would_be_found():
    known = pattern(listed())
    assert not known.fullmatch("speed") and not known.fullmatch("segmentation/dice/XX")
    assert known.fullmatch("segmentation/dice/MA/low") and known.fullmatch("history[]/val/grading/auc/3")


def test_each_listed_key_of_a_run_is_in_every_record():
    keys = listed()
    always = [key for key in keys[: keys.index("TASK/loss")] if key.islower()]
    always.remove("judged_by")  # since 27 November 2026
    for made in load_records():
        assert set(always) <= made.keys()


def test_a_job_without_git_says_the_commit_that_it_was_told(monkeypatch):
    monkeypatch.setenv("MTL_COMMIT", "0123456789ab")
    assert code_version().endswith("(0123456789ab)")


def test_the_commit_of_a_repository_around_the_installed_library_is_not_taken(monkeypatch, tmp_path):
    """As where a student's project holds the environment, in a folder that its git ignores."""
    monkeypatch.delenv("MTL_COMMIT", raising=False)
    monkeypatch.setattr("mtl_utils.runtime.__file__", str(tmp_path / "venv" / "runtime.py"))
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "runtime.py").touch()
    (tmp_path / ".gitignore").write_text("venv")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    assert code_version() == __version__


def graded_run(seed: int, right: int, profile: str = "cpu", **changes) -> dict:
    """Ten graded photographs of which the first `right` are graded right."""
    rows = [
        {"name": f"{place:02}", "task": "grading", "grade": 2, "p0": float(place >= right), "p1": 0.0,
         "p2": float(place < right), "p3": 0.0, "p4": 0.0}
        for place in range(10)
    ]  # fmt: skip
    basis = {"experiment": "x", "data": "IDRiD", "split": "test", "protocol": "clean", "seed": seed}
    return {**basis, "profile": profile, "per_photograph": rows, **changes}


def test_runs_to_compare_are_of_the_profile_that_has_most():
    runs = [graded_run(1, 5), graded_run(0, 5), graded_run(0, 9, "gpu"), graded_run(2, 5, protocol="paper")]
    found = runs_of([*runs, graded_run(0, 5, experiment="z")], ["x", "y"])
    assert [(run["seed"], run["profile"]) for run in found.pop("x")] == [(0, "cpu"), (1, "cpu")]
    assert found == {}


def test_runs_are_compared_over_the_seeds_that_both_have():
    one, other = [graded_run(0, 8), graded_run(1, 6), graded_run(2, 10)], [graded_run(0, 5), graded_run(1, 5)]
    row = compare_runs(one, other, "grading").loc["grading/accuracy"]
    assert (row.one, row.other, row.difference) == pytest.approx((0.7, 0.5, 0.2))
    assert row.low <= row.difference <= row.high


def test_runs_of_other_seeds_or_other_photographs_are_not_compared():
    with pytest.raises(MTLError, match="no seed that both"):
        compare_runs([graded_run(0, 8)], [graded_run(1, 5)], "grading")
    other = graded_run(0, 5)
    other["per_photograph"][0]["name"] = "another"
    with pytest.raises(MTLError, match="not judged on the same photographs"):
        compare_runs([graded_run(0, 8)], [other], "grading")


def test_masks_of_other_photographs_are_not_compared():
    run = runs_of(load_records(), ["fair-masks"])["fair-masks"][0]
    rows = [{**row, "name": f"other {row['name']}"} for row in run["per_photograph"]]
    with pytest.raises(MTLError, match="not judged on the same photographs"):
        compare_runs([run], [{**run, "per_photograph": rows}], "segmentation")


def test_seeds_are_paired_within_one_kind_of_run():
    """A run on a GPU is no further seed of those on a CPU; a metric that one run lacks is left out."""
    runs = [
        {"experiment": name, "seed": seed, "profile": profile, "x": seed * (1 + (name == "a")), "y": 1.0}
        for name in "ab"
        for profile, seeds in (("gpu", (0,)), ("cpu", (0, 1, 3)))
        for seed in seeds
    ]
    del runs[-1]["y"]
    found = paired_difference(runs, "a", "b", ["x", "y"])
    assert found.index.tolist() == ["x"] and found.loc["x", ["difference", "seeds"]].tolist() == [4 / 3, 3]


def test_masks_are_compared_by_the_records_own_figures():
    runs = runs_of(load_records(), ["fair-masks", "fair-pldmlt"])
    one, other = runs["fair-masks"], runs["fair-pldmlt"]
    found = compare_runs(one, other, "segmentation")
    counts = [np.mean([segmentation_scores(run).compute()[AUPR] for run in each]) for each in (one, other)]
    own = [np.mean([run[AUPR] for run in each]) for each in (one, other)]
    row = found.loc[AUPR]
    assert (row.one, row.other, row.difference) == pytest.approx((*own, own[0] - own[1]))
    assert row["shift"] == pytest.approx(own[0] - own[1] - (counts[0] - counts[1]))
    assert abs(row["shift"]) > 1e-4
    assert row.low < row.difference < row.high
    assert found.loc["segmentation/dice/mean", "shift"] == pytest.approx(0, abs=1e-4)  # Dice loses nothing


def test_a_ladder_has_what_each_step_reaches_and_adds():
    low, high = (runs_of(load_records(), [name])[name][0] for name in ("fair-pldmlt", "fair-masks"))
    found = ladder({"first": low, "missing": None, "third": low, "fourth": high}, [AUPR])[AUPR]
    assert list(found.index) == ["first", "missing", "third", "fourth"]
    assert found.value.dropna().tolist() == [low[AUPR], low[AUPR], high[AUPR]]
    assert found.loc["fourth", ["low", "high"]].tolist() == [high[f"{AUPR}/low"], high[f"{AUPR}/high"]]
    assert found.loc["missing"].isna().all()
    assert found.added.isna().tolist() == [
        True,
        True,
        True,
        False,
    ]  # it has no step before, or one is missing
    last, gain = found.loc["fourth"], compare_runs([high], [low], "segmentation").loc[AUPR]
    assert last.added == pytest.approx(high[AUPR] - low[AUPR])
    assert [last.added_low, last.added_high, last["shift"]] == [gain.low, gain.high, gain["shift"]]


def test_only_runs_of_one_setting_are_pairs():
    basis = {"data": "IDRiD", "split": "test", "protocol": "clean", "profile": "cpu"}
    for key in basis:
        runs = [basis | {"experiment": "a", "seed": s, "x": 0.5 + s / 10} for s in (0, 1)]
        runs += [basis | {"experiment": "b", "seed": s, "x": 0.4, key: "another"} for s in (0, 1)]
        assert paired_difference(runs, "a", "b", ["x"]).empty, key


@pytest.mark.parametrize("key", ["data", "split", "protocol"])
def test_only_runs_on_idrids_clean_test_photographs_are_compared(key):
    assert runs_of([graded_run(0, 5, **{key: "another"})], ["x"]) == {}


def test_the_interval_of_masks_moves_with_the_difference():
    runs = runs_of(load_records(), ["fair-masks", "fair-pldmlt"])
    one, other = (each[:1] for each in runs.values())
    row = compare_runs(one, other, "segmentation", seed=3).loc[AUPR]
    values = [[segmentation_scores(run).values() for run in each] for each in (one, other)]
    plain = paired_bootstrap(*values, len(segmentation_scores(one[0])), 1000, 3).loc[AUPR]
    assert [row.low, row.high] == pytest.approx([end + row["shift"] for end in (plain.low, plain.high)])


def test_runs_of_other_data_have_a_row_of_their_own_and_minutes_are_a_mean():
    table = PAPER_TABLES["IDRiD, lesions: what others published"]
    run = runs_of(load_records(), ["lesions-best"])["lesions-best"][0]
    runs = [run, {**run, "seconds": 3 * run["seconds"]}, {**run, "data": "IDRiD + DiaRetDB1"}]
    ours = [row for row in rows_of(runs, table) if row.runs]
    assert [len(row.runs) for row in ours] == [2, 1]
    assert about(ours[0].runs)["minutes"] == pytest.approx(2 * run["seconds"] / 60, abs=0.051)


def test_a_run_on_ddr_stands_in_no_table_of_idrid():
    run = runs_of(load_records(), ["fair-masks"])["fair-masks"][0]
    for title, table in PAPER_TABLES.items():
        if table.on_ddr is False:
            runs = [{**run, "experiment": name, "data": "DDR"} for name in table.experiments()]
            assert not any(row.runs for row in rows_of(runs, table)), title
