"""The papers' tables with our runs below, as text for a terminal (`mtl results`) and as HTML for the page
*Results*: each of our rows with its protocol and with the command that makes it again.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import pandas as pd

from mtl_utils.errors import MTLError
from mtl_utils.experiments import EXPERIMENTS
from mtl_utils.paper_tables import NO_PAPER, PAPER_TABLES, PaperTable, Value
from mtl_utils.records import Row, about, aupr_is_a_bound, rows_of
from mtl_utils.rerun import command, commit

OTHER_RUNS = "Runs that stand in no table"
BOUND = "≥ "
BOUND_MEANS = (
    f"{BOUND.strip()} before an AUPR: at least so much. The run is older than the exact measure, and its "
    "network learned by Dice."
)
WIDTH = 110  # characters of a line, where there is no terminal to ask


def tables(records: list[dict], only: Sequence[str] = ()) -> dict[str, tuple[PaperTable, list[Row]]]:
    """All tables with their rows; last, the recorded runs that stand in none of them.

    Args:
        records: from `records.load_records`.
        only: names of experiments; then only the tables that have one of them, and of our rows only those.

    Raises:
        MTLError: `only` names what is neither an experiment nor recorded.
    """
    known = {*EXPERIMENTS, *(name for table in PAPER_TABLES.values() for name in table.experiments())}
    known |= {record["experiment"] for record in records}
    if wrong := [name for name in only if name not in known]:
        raise MTLError(f"no experiment {wrong[0]!r}. There are: {', '.join(sorted(known))}.")
    found = {title: (table, rows_of(records, table)) for title, table in PAPER_TABLES.items()}
    placed = {id(run) for _, rows in found.values() for row in rows for run in row.runs}
    others = [record for record in records if id(record) not in placed]
    if others:
        table = replace(_OTHERS, ours=tuple(dict.fromkeys(record["experiment"] for record in others)))
        found[OTHER_RUNS] = table, rows_of(others, table)
    if not only:
        return found
    return {
        title: (table, [row for row in rows if not _is_ours(row) or row.run.split(": ")[1] in only])
        for title, (table, rows) in found.items()
        if set(only) & set(table.experiments())
    }


_OTHERS = PaperTable(
    paper=NO_PAPER,
    caption="Recorded for a chapter's question, or as a part of other runs.",
    protocol="",
    columns={
        "Accuracy (%)": "grading/accuracy",
        "Weighted kappa (%)": "grading/qwk",
        "mean Dice (%)": "segmentation/dice/mean",
        "mean AUPR (%)": "segmentation/aupr/mean",
        "PSNR (dB)": "isr/psnr",
    },
    rows={},
    percent=("Accuracy (%)", "Weighted kappa (%)", "mean Dice (%)", "mean AUPR (%)"),
    on_ddr=None,
)


def _is_ours(row: Row) -> bool:
    return row.pending or bool(row.runs)


def _protocol(row: Row) -> str:
    return row.runs[0]["protocol"] if row.runs else "pending" if row.pending else "printed"


def _texts(row: Row, table: PaperTable) -> list[str]:
    """The figures of a row: printed ones as they were printed, ours with the four digits of a record."""
    figure = _ours if row.runs else _printed
    bound = any(map(aupr_is_a_bound, row.runs))
    texts = []
    for title, metric in table.columns.items():
        value = row.values.get(title)
        text = "" if value is None else figure(value, title, table)
        texts.append(BOUND + text if text and bound and "/aupr/" in metric else text)
    return texts


def _caption(table: PaperTable, rows: Iterable[Row]) -> str:
    """The table's, and what a sign in it means."""
    marked = any(text.startswith(BOUND) for row in rows for text in _texts(row, table))
    return f"{table.full_caption} {BOUND_MEANS}" if marked else table.full_caption


def _ours(value: Value, title: str, table: PaperTable) -> str:
    if isinstance(value, tuple):
        return (
            "{:.2f} ± {:.2f}".format(*value) if title in table.percent else "{:.4g} ± {:.2g}".format(*value)
        )
    return f"{value:.2f}" if title in table.percent else f"{value:.4g}"


def _printed(value: Value, title: str, table: PaperTable) -> str:
    """With as many decimals as the column has, so that 0.680 keeps its zero; deviations with as many digits
    as the table's others.
    """
    column = [values[list(table.columns).index(title)] for _, values in table.rows.values()]
    means = [repr(each[0] if isinstance(each, tuple) else each) for each in column if each is not None]
    decimals = max(len(text.partition(".")[2]) for text in means)
    if isinstance(value, tuple):
        spreads = [each[1] for _, row in table.rows.values() for each in row if isinstance(each, tuple)]
        digits = max(len(repr(spread).partition(".")[2]) for spread in spreads)
        return f"{value[0]:.{decimals}f} ± {value[1]:.{digits - 1 if value[1] >= 10 else digits}f}"
    return f"{value:g}" if "e" in repr(value) else f"{value:.{decimals}f}"


# ------------------------------------------------------------------------------------------- for a terminal


def as_text(title: str, table: PaperTable, rows: list[Row], width: int = WIDTH) -> str:
    """A table as lines of at most `width` characters, and below it, by number, how each of our rows was made
    and the commands that make it again. These are one line each, however long, so that they can be copied.
    """
    numbers = {id(row): f"[{place}]" for place, row in enumerate((row for row in rows if row.runs), 1)}
    names = [f"{row.run} {numbers.get(id(row), '')}".rstrip() for row in rows]
    lines = [[_protocol(row), *_texts(row, table)] for row in rows]
    frame = pd.DataFrame(lines, index=names, columns=["protocol", *table.columns])
    paragraphs = [title, *textwrap.wrap(_caption(table, rows), width)]
    notes = [note for row in rows if row.runs for note in _notes(row, numbers[id(row)], width)]
    if pending := dict.fromkeys(row.run.removeprefix("ours: ") for row in rows if row.pending):
        notes += textwrap.wrap(f"pending: {', '.join(pending)}", width, break_on_hyphens=False)
    shown = frame.replace("", "-").to_string(line_width=width)
    return "\n".join([*paragraphs, "", shown, *([""] if notes else []), *notes])


def _notes(row: Row, number: str, width: int) -> list[str]:
    how = about(row.runs)
    words = (
        f"{number} {how['data']}, {row.runs[0]['split']} split; {how['encoder']}; "
        f"px (grade, masks) {how['px (grade, masks)']}; seed {how['seed']}; epochs {how['epochs']}; "
        f"{how['device']}; minutes {how['minutes']}; {how['date']}; code {_code(row.runs)}"
    )
    about_it = textwrap.wrap(words, width, subsequent_indent="    ", break_on_hyphens=False)
    return [*about_it, *(f"    {line}" for line in _commands(row.runs))]


def _commands(runs: Sequence[dict]) -> list[str]:
    """The command of each run; with its commit, where theirs differ."""
    one = len({commit(run) for run in runs}) == 1
    return [command(run) + ("" if one else f"  # code {commit(run)}") for run in runs]


def _code(runs: Iterable[dict]) -> str:
    return ", ".join(dict.fromkeys(commit(run) for run in runs))


# ----------------------------------------------------------------------------------------------- for a page


@dataclass(frozen=True)
class Cell:
    """A cell of a page's table: what it shows, as HTML, and what it is sorted by (None: by what it shows)."""

    html: str
    sort: float | str | None = None


def as_html(title: str, table: PaperTable, rows: list[Row]) -> str:
    """A table that can be sorted (`book/_static/sortable.js`), with its caption above."""
    how = ["data", "encoder", "px (grade, masks)", "seed", "epochs", "device", "minutes", "date"]
    titles = ["run", "protocol", *table.columns, *how, "code", "again"]
    lines = []
    for place, row in enumerate(rows):
        made = about(row.runs) if row.runs else {}
        kind = "ours" if row.runs else "pending" if row.pending else "printed"
        # A first click sorts downwards.
        cells = [Cell(escape(row.run), -place), Cell(_protocol(row))]
        for column, text in zip(table.columns, _texts(row, table), strict=True):
            value = row.values.get(column)
            cells.append(Cell(text, value[0] if isinstance(value, tuple) else value))
        cells += [Cell(escape(str(made.get(key, ""))), _number(made, key)) for key in how]
        cells += [Cell(_code(row.runs)), Cell(_again(row.runs))]
        lines.append((kind, cells))
    caption = f"<strong>{escape(title)}.</strong> {_marked(_caption(table, rows))}"
    return f'<p class="results-caption">{caption}</p>{_html_table(title, titles, lines)}'


def _number(made: Mapping[str, object], key: str) -> int | None:
    """Sizes sort by their first number; as text 1024 would stand below 320."""
    first = re.search(r"\d+", str(made.get(key, "")))
    return int(first[0]) if first and key.startswith("px") else None


def runs_as_html(records: list[dict]) -> str:
    """The list of recorded runs, a row each, which can be sorted."""
    titles = [
        "run", "seed", "paper", "protocol", "data", "photographs: learned + validation / judged", "encoder",
        "device", "minutes", "peak GiB", "date", "code", "again",
    ]  # fmt: skip
    lines = []
    for place, record in enumerate(records):
        known = EXPERIMENTS.get(record["experiment"])
        stands_in = ", ".join(text for text in (known.paper, known.table) if text != "-") if known else ""
        numbers = record["photographs"]
        seen = [f"{task} {n['train']} + {n['val']} / {n['test']}" for task, n in numbers.items()]
        peak = record.get("peak_memory_gib")
        texts = [
            Cell(escape(record["experiment"]), -place),
            Cell(str(record["seed"])),
            Cell(escape(stands_in)),
            *(Cell(escape(record[key])) for key in ("protocol", "data")),
            Cell(escape("; ".join(seen)), sum(n["train"] for n in numbers.values())),
            *(Cell(escape(record[key])) for key in ("encoder_name", "device")),
            Cell(f"{record['seconds'] / 60:.1f}"),
            Cell("" if peak is None else f"{peak:.2f}"),
            Cell(record["date"]),
            Cell(commit(record)),
            Cell(_again([record])),
        ]
        lines.append(("run", texts))
    return _html_table("The recorded runs", titles, lines)


def _again(runs: Sequence[dict]) -> str:
    """The commands, folded up; `highlight` is what the book gives a button to copy."""
    if not runs:
        return ""
    commands = escape("\n".join(_commands(runs)))
    return f'<details><summary>command</summary><div class="highlight"><pre>{commands}</pre></div></details>'


def _marked(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _html_table(name: str, titles: Sequence[str], lines: Iterable[tuple[str, Sequence[Cell]]]) -> str:
    """A table inside a box that scrolls, also by keyboard. Rows come as (class, cells); the last column holds
    commands and is not sorted. Rows without a value stay below when others are sorted (`n-last`). Of class
    `dataframe`, as pandas' tables are, it keeps to the theme, dark or light.
    """
    *sorted_titles, last = map(escape, titles)
    head = "".join(f'<th scope="col">{title}</th>' for title in sorted_titles)
    head += f'<th scope="col" class="no-sort">{last}</th>'
    body = "".join(f'<tr class="{kind}">{_html_row(cells)}</tr>' for kind, cells in lines)
    return (
        f'<div class="results-box" role="region" tabindex="0" aria-label="{escape(name)}">'
        f'<table class="dataframe sortable n-last"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _html_row(cells: Sequence[Cell]) -> str:
    first, *others = (
        ("" if cell.sort is None else f' data-sort="{escape(str(cell.sort))}"', cell.html) for cell in cells
    )
    return f'<th scope="row"{first[0]}>{first[1]}</th>' + "".join(f"<td{s}>{t}</td>" for s, t in others)
