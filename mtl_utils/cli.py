"""The command `mtl`. Each sub-command imports what it needs when it runs, so that `mtl --help` is quick."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from mtl_utils.errors import DataError, MTLError

app = typer.Typer(
    name="mtl",
    help="Multi-task learning for diabetic retinopathy: the course's command line.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Check, draw and prepare data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Graded = Annotated[
    Path | None,
    typer.Option(help="Folder of a further graded set (EyePACS, or your own): all of it is for training."),
]
Masked = Annotated[
    Path | None,
    typer.Option(help="Folder of a further set with masks (DiaRetDB1, DDR): all of it is for training."),
]
DataPath = Annotated[
    Path, typer.Argument(metavar="PATH", help="Folder of a set with masks: IDRiD, DDR or DiaRetDB1.")
]


def _bar() -> bool:
    """Show progress bars only to a person: in a log file every step would be a line of its own."""
    return sys.stderr.isatty()


@data_app.command("check")
def data_check(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Folder of IDRiD, DDR, DiaRetDB1, EyePACS, or of a graded set of yours."
        ),
    ],
) -> None:
    """Read every file of a data set and tell what is there, what is wrong, and what is there twice.

    Exit status 0 if all is well, 2 if something is wrong.
    """
    from mtl_utils.data.check import check

    report = check(path, progress=_bar())
    typer.echo(report.text())
    if report.problems:
        raise DataError(
            f"{path} is not a whole {report.layout}: {len(report.problems)} problem(s), listed above."
        )


@data_app.command("synthetic")
def data_synthetic(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder to write; it must not exist yet.")],
    size: Annotated[int, typer.Option(help="Height of the photographs in pixels.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other eyes.")] = 0,
) -> None:
    """Draw a synthetic look-alike of IDRiD, in the official layout."""
    from mtl_utils.data.synthetic import write_synthetic

    root = write_synthetic(path, size=size, seed=seed, progress=_bar())
    typer.echo(f"synthetic set in {root}")


@data_app.command("prepare")
def data_prepare(
    path: DataPath,
    size: Annotated[int, typer.Option(help="Side of the square pictures in pixels.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the copy. Default: in the course's cache.")
    ] = None,
    graded: Graded = None,
    masked: Masked = None,
) -> None:
    """Make the working copy: small square pictures that load fast. A stopped run goes on where it was."""
    from mtl_utils.data.prepare import prepare

    copy = prepare(path, size=size, out=out, progress=_bar(), graded=graded, masked=masked)
    typer.echo(f"working copy of {len(copy)} photographs, {copy.size} x {copy.size} px, in {copy.folder}")


@app.command("experiments")
def experiments() -> None:
    """List the named runs: the paper and table they belong to, what they do, and what data they need.

    'IDRiD A' or 'IDRiD B': what a run learns from. Both parts must lie in the folder all the same: many
    photographs are in both, and the protocols look for them.
    """
    from mtl_utils.experiments import EXPERIMENTS

    places = {name: f"{entry.paper}, {entry.table}" for name, entry in EXPERIMENTS.items()}
    width, wide = (max(map(len, texts)) for texts in (EXPERIMENTS, places.values()))
    for name, entry in EXPERIMENTS.items():
        typer.echo(f"{name:{width}}  {places[name]:{wide}}  {entry.about}; needs {entry.needs}")


@app.command("train")
def train(
    name: Annotated[str, typer.Argument(help="One of 'mtl experiments'.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of IDRiD, DDR or DiaRetDB1. Default: MTL_DATA, else the synthetic set."),
    ] = None,
    graded: Graded = None,
    masked: Masked = None,
    profile: Annotated[
        str | None, typer.Option(help="smoke, cpu, gpu or paper. Default: MTL_PROFILE, else by machine.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Rules weights, split, order and augmentation.")
    ] = 0,
    encoder: Annotated[
        str | None,
        typer.Option(help="An encoder of segmentation-models-pytorch, by its name there."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, bundled, none, or a file.")] = None,
    protocol: Annotated[str | None, typer.Option(help="clean, paper or clean-folds.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/NAME-PROFILE-seedS.")
    ] = None,
    first: Annotated[
        Path | None,
        typer.Option(
            help="What comes before, made earlier: the first network's last.ckpt (MTUnet B and semi, "
            "DeepMT-DR, the lesion network of grade-from-findings), or the pseudo-grades.json of stage 1 "
            "(PLDMLT)."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    devices: Annotated[
        int, typer.Option(help="Processes on each machine that share each step's photographs: its GPUs.")
    ] = 1,
    nodes: Annotated[
        int, typer.Option(help="Machines. More than one: start this command with srun or torchrun.")
    ] = 1,
    on_cpu: Annotated[
        bool, typer.Option("--on-cpu", help="Train a GPU's profile on a CPU all the same.")
    ] = False,
) -> None:
    """Train a named run, judge it on the test split, and leave checkpoints and a record.

    A run that was stopped goes on with --resume and ends as if it had never stopped.
    """
    from mtl_utils.data.prepare import WorkingCopy, prepare
    from mtl_utils.experiments import CLASSIFIERS, experiment
    from mtl_utils.pseudo_grades import PseudoGrades
    from mtl_utils.records import make_record, write_record
    from mtl_utils.runtime import check_profile, data_folder, default_device, device_name
    from mtl_utils.training import FIRST, cross_validate, fit, stage_one
    from mtl_utils.training.distributed import check_processes, rank

    profile = check_profile(profile)
    if profile in ("gpu", "paper") and default_device() == "cpu" and not on_cpu:
        raise MTLError(
            f"profile {profile!r} takes a GPU and torch sees none: use --profile cpu, "
            "or --on-cpu for a run of many hours."
        )
    given = {"encoder_name": encoder, "encoder_weights": weights, "protocol": protocol}
    config = experiment(
        name, profile, seed=seed, **{key: value for key, value in given.items() if value is not None}
    )
    out = (out or Path("runs") / f"{name}-{profile}-seed{seed}").expanduser()
    root = data or data_folder(profile, progress=_bar())

    def working_copy(size: int) -> WorkingCopy:
        return prepare(root, size, progress=_bar(), graded=graded, masked=masked)

    copy, pseudo = working_copy(config.copy_size), None
    check_processes(config, config.parts(copy.table), devices, nodes)
    leads = rank(devices * nodes) == 0
    if leads:
        typer.echo(
            f"{name}: {config.encoder_name}, at most {config.epochs} epochs "
            f"on {device_name(default_device())}, into {out}"
        )
    if config.pseudo_grades and first:
        pseudo, first = PseudoGrades.open(first), None
        pseudo.require(seed=seed, profile=profile)
    elif config.pseudo_grades:
        classifiers = [experiment(each, profile, seed=seed) for each in CLASSIFIERS]
        # From a copy of its own size, so that --first with a stage 1 that was made alone gives the same run.
        seen = working_copy(max(each.copy_size for each in classifiers))
        pseudo = stage_one(classifiers, seen, out / FIRST, resume)
    if config.protocol == "clean-folds" and "segmentation" in config.tasks:
        if first is not None:
            raise MTLError(f"{name} takes no --first under this protocol: leave out {first}")
        result = cross_validate(config, copy, out, resume=resume, pseudo=pseudo, devices=devices, nodes=nodes)
    else:
        result = fit(
            config,
            copy,
            out,
            resume=resume,
            first=first,
            pseudo=pseudo,
            devices=devices,
            nodes=nodes,
        )
    if not leads:  # the first process judges and writes
        return
    record = make_record(result, copy)
    path = write_record(record, out)
    for metric in (
        "grading/accuracy",
        "grading/qwk",
        "segmentation/dice/EX",
        "segmentation/dice/OD",
        "segmentation/dice/red",
        "segmentation/dice/yellow",
        "segmentation/dice/disc",
        "segmentation/dice/lesion",
        "segmentation/with_background/dice/lesion",
        "segmentation/dice/mean",
        "isr/psnr",
        "isr/bicubic/psnr",
    ):
        if metric in record:
            typer.echo(f"{metric:40} {record[metric]:.3f}")
    typer.echo(
        f"{record['data']}, protocol {record['protocol']}, test split; {result.seconds / 60:.1f} min; "
        f"record: {path}"
    )


@app.command("results")
def results(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these experiments. Default: all.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of records. Default: those that come with the course.")
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Every record's settings and metrics as JSON, with its command."),
    ] = False,
) -> None:
    """Show the recorded runs beside the papers' tables, each with the command that makes it again.

    A run that nobody has made yet is 'pending'.
    """
    import json
    import shutil

    from mtl_utils.records import load_records
    from mtl_utils.rerun import command
    from mtl_utils.result_tables import WIDTH, as_text, tables
    from mtl_utils.training import flat_settings

    records, names = load_records(folder), names or []
    found = tables(records, names)
    if as_json:
        flat = [
            {key: value for key, value in record.items() if not isinstance(value, list | dict)}
            | {f"config/{key}": value for key, value in flat_settings(record["config"]).items()}
            | {"command": command(record)}
            for record in records
            if not names or record["experiment"] in names
        ]
        typer.echo(json.dumps(flat, indent=1))
        return
    typer.echo(
        "To make a run again: the command below its row, with your folder of IDRiD, on the same device. "
        "'code' is the\ncommit that made it: 'git checkout CODE' brings it back.\n"
    )
    width = max(shutil.get_terminal_size((WIDTH, 24)).columns, 80)
    for title, (table, rows) in found.items():
        typer.echo(f"{as_text(title, table, rows, width)}\n")


@app.command("predict")
def predict(
    photographs: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Colour fundus photographs.")],
    checkpoint: Annotated[Path, typer.Option(help="Trained network, from 'mtl train'.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it may exist.")],
) -> None:
    """Grade fundus photographs and mark their lesions. For learning only: not a medical device.

    For each photograph: NAME.json (grade, probabilities), NAME_MA.png to NAME_OD.png (8-bit probabilities
    at the photograph's own size) and NAME_overlay.png; with super-resolution also NAME_restored.png, the
    square around the eye at the size that the network works at. Exit status 2 if a photograph could not be
    predicted; the others are done all the same.
    """
    from mtl_utils.predict import predict_files

    photographs = list(dict.fromkeys(photographs))
    for written in predict_files(photographs, checkpoint, out, progress=_bar() and len(photographs) > 1):
        typer.echo(f"{written.photograph}: {written.prediction.summary()}; {written.json}")


def main() -> None:
    """Run the command; what the reader can put right becomes one message on stderr and exit status 2."""
    # What Pillow warns of in a damaged file, we tell in words of our own.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    for stream in (sys.stdout, sys.stderr):  # a terminal or a file that lacks a sign, and names of files
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except MTLError as error:
        print(f"mtl: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be read
        print(f"mtl: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
    except SystemExit as ended:
        # After SIGTERM (kill, scancel) Lightning ends without a status, as if all had gone well.
        status = 128 + signal.SIGTERM if ended.code is None else ended.code
        if status in (128 + signal.SIGTERM, 128 + signal.SIGINT):
            how = signal.Signals(status - 128).name
            print(f"mtl: ended by {how}. With --resume a run goes on after its last epoch.", file=sys.stderr)
        sys.exit(status)
    sys.exit(2)
