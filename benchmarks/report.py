"""Result files -> tables and pages that load nothing from elsewhere: `python -m benchmarks.report DIR [DIR ...]`.

DIR is a run (its page is DIR/run.html) or a sweep (report.html, rows.csv, rows.md), or it holds results of
benchmarks.run, benchmarks.linear_probe or ssvid.finetune (board.md, board.csv, board.tex, report.html, and a page for
each run that an encoder came from). Several DIR with results make one report.
"""

from pathlib import Path
from typing import Any

from ssvid.errors import UserError


def reports(
    folder: list[str],  # of results, a run or a sweep; several of results make one report
    *,
    out: str | None = None,  # folder of the report of results; null: the first one
    baseline: str = "random",  # of the gains per class: random, pixels, single_frame, shuffled, chance or an encoder
) -> dict[str, Any]:
    """Make the report of result files anew: Markdown, HTML, CSV and LaTeX."""
    from benchmarks.reports import board

    places = [Path(name) for name in folder]
    if not places:
        raise UserError("Name a folder of results, or a run: python -m benchmarks.report DIR.")
    together = len(places) > 1 or out is not None or baseline != "random"
    for place in places:
        if not place.is_dir():
            raise UserError(f"There is no folder {place}.")
        if together and not board.is_board(place):
            raise UserError(
                f"{place} holds no result: several folders, --out and --baseline are for results alone."
            )
    if together:
        return {
            "report": str(board.write(*places, out=Path(out) if out else None, baseline=baseline))
        }
    return report(places[0])


def report(place: Path) -> dict[str, Any]:
    """Of one folder, whatever it holds."""
    from benchmarks.reports import board, run_page, sweep_page, sweep_rows

    if sweep_rows.is_sweep(place):
        return sweep_page.write(place)
    written = (
        {"run": str(run_page.write(place, place / "run.html"))} if run_page.is_run(place) else {}
    )
    if written and not board.is_board(place):
        return written
    return {**written, "report": str(board.write(place))}


if __name__ == "__main__":
    from ssvid.cli import command

    command(reports, "folder")
