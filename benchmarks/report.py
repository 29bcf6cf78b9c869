"""Result files -> tables and pages that load nothing from elsewhere.

`python -m benchmarks.report DIR [DIR ...]`: DIR is a run (its page is DIR/run.html) or a sweep
(report.html, rows.csv, rows.md), or it holds results of benchmarks.run, benchmarks.linear_probe or
ssvid.finetune (board.md, board.csv, board.tex, report.html, and a page for each run that an encoder
came from). Several DIR with results make one report.
"""

from pathlib import Path
from typing import Any

from ssvid.commands import phrase_command
from ssvid.errors import UserError


def reports(
    folder: list[str],  # of results, a run or a sweep; several of results make one report
    *,
    out: str | None = None,  # folder of the report of results; null: the first one
    # what the gains by class are over: a row (random, floor, single_frame, bag, shuffled), chance
    # or an encoder
    baseline: str = "random",
) -> dict[str, Any]:
    """Make the report of result files anew: Markdown, HTML, CSV and LaTeX."""
    from benchmarks.reports import board

    folders = [Path(name) for name in folder]
    if not folders:
        raise UserError(f"Name a folder of results, or a run: {phrase_command('report')} DIR.")
    together = len(folders) > 1 or out is not None or baseline != "random"
    for path in folders:
        if not path.is_dir():
            raise UserError(f"There is no folder {path}.")
        if together and not board.is_board(path):
            raise UserError(
                f"{path} holds no result: several folders, --out and --baseline "
                "are for results alone."
            )
    if not together:
        return report(folders[0])
    target = Path(out) if out else None
    return {"report": str(board.write_board(*folders, out=target, baseline=baseline))}


def report(folder: Path) -> dict[str, Any]:
    """Write the report of one folder, whatever it holds."""
    from benchmarks.reports import sweep_rows

    if sweep_rows.is_sweep(folder):
        from benchmarks.reports import sweep_page

        return sweep_page.write_sweep(folder)
    from benchmarks.reports import board, run_page  # and torch with them: seconds

    written = {}
    if run_page.is_run(folder):
        written["run"] = str(run_page.write_run_page(folder, folder / "run.html"))
        if not board.is_board(folder):
            return written
    return {**written, "report": str(board.write_board(folder))}


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("report")
