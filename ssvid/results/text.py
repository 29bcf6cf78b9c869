"""Result -> short texts that the terminal, tables and pages share."""

from collections.abc import Sequence

from ssvid.results.schema import Gain, Result

ROW_NAMES = {  # row of a result -> its name in tables
    "encoder": "encoder",
    "random": "same net, untrained",
    "pixels": "raw pixels",
    "single_frame": "one frame repeated",
    "shuffled": "frames shuffled",
}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def between(interval: Sequence[float], scale: str = "") -> str:
    low, high = (100 * end for end in interval)
    return f"{low:{scale}.1f} to {high:{scale}.1f}"


def gained(gain: Gain) -> str:
    """What the encoder has more, in points."""
    more = f"{100 * gain.difference:+.1f}" if gain.shown else "no difference shown"
    return f"{more} ({between(gain.interval, '+')})"


def scored(result: Result) -> str:
    """The main number, with its spread where it is a mean."""
    spread, over = result.score.spread, mean_of(result)
    if spread is None or not over:
        return percent(result.score.value)
    return f"{100 * result.score.value:.1f} +- {100 * spread:.1f} % ({over})"


def mean_of(result: Result) -> str:
    """What the numbers are means over: seeds of the probe, folds or pretraining seeds; else empty."""
    seeds = len(result.seeds or ())
    return result.over or (f"{seeds} seeds" if seeds > 1 else "")


def control_score(result: Result, row: str) -> str:
    return percent(result.controls[row].value) if row in result.controls else ""


def gain_over_untrained(result: Result) -> str:
    return gained(result.gains["random"]) if "random" in result.gains else ""


def line(result: Result) -> str:
    """The result in one line."""
    beside = [f"untrained {control_score(result, 'random')}"] * ("random" in result.controls)
    if result.chance is not None:
        beside.append(f"chance {percent(result.chance)}")
    parts = [
        f"{result.encoder.title}, {result.cell}: {scored(result)} ({between(result.score.interval)})",
        ", ".join(beside),
        gain_over_untrained(result),
    ]
    return "; ".join(part for part in parts if part)
