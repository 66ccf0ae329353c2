"""From events to answers: six questions, each a query of this folder, answered by DuckDB.

    python -m examples.events EVENTS [--picture events.png]

EVENTS is a file of lines that EVENTS=1 wrote, or a pattern. Needs `pip install duckdb matplotlib`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FOLDER = Path(__file__).parent
QUESTIONS = {
    "peaks": ("Accounts, by their most streams at once", "peak", "accounts"),
    "refusals": ("Refusals by hour", "hour", "refusals"),
    "expired": ("Share of streams that expired, by platform", "platform", "expired_share"),
    "accounts": ("Refusals of the accounts with most", "account", "refusals"),
    "other_limits": ("Share of starts that another limit would refuse", "limit", "played_again"),
    "lengths": ("Median minutes played, by platform", "platform", "median"),
}
"""By query: what it answers, and which columns are drawn."""


def connect(events: str) -> DuckDBPyConnection:
    """A database of the events in this file, or in all of this pattern."""
    database = duckdb.connect()
    database.execute("SET VARIABLE file = $file", {"file": events})
    database.execute((FOLDER / "events.sql").read_text())
    return database


def answer(database: DuckDBPyConnection, question: str) -> list[dict[str, Any]]:
    """The rows that answer one of `QUESTIONS`."""
    database.execute((FOLDER / f"{question}.sql").read_text())
    names = [column[0] for column in database.description or ()]
    return [dict(zip(names, row, strict=True)) for row in database.fetchall()]


def draw(database: DuckDBPyConnection, picture: Path) -> None:
    """Draw all answers, as bars, into one picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only for those who want a picture

    figure = Figure(figsize=(12, 10), layout="constrained")
    for plot, (question, (title, name, figure_of)) in zip(
        figure.subplots(3, 2).flat, QUESTIONS.items(), strict=True
    ):
        bars: dict[str, float] = {}
        for row in answer(database, question):
            bar = "unknown" if row[name] is None else str(row[name])[:16]
            bars[bar] = bars.get(bar, 0) + row[figure_of]
        plot.barh(list(bars), list(bars.values()))
        plot.invert_yaxis()
        plot.set_title(title)
    figure.savefig(picture)


def main() -> None:
    """Answer, on standard output."""
    parser = argparse.ArgumentParser(prog="python -m examples.events", description=__doc__)
    parser.add_argument("events", help="a file of events, or a pattern")
    parser.add_argument("--picture", type=Path, help="draw the answers into this file")
    options = parser.parse_args()
    try:
        database = connect(options.events)
    except duckdb.Error as error:
        parser.error(str(error))
    for question, (title, *_) in QUESTIONS.items():
        print(f"\n{title}")  # noqa: T201
        print(database.sql((FOLDER / f"{question}.sql").read_text()))  # noqa: T201
    if options.picture is not None:
        draw(database, options.picture)


if __name__ == "__main__":
    main()
