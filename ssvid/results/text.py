"""Result -> short texts. The terminal, tables and pages share them."""

from collections.abc import Sequence

from ssvid.results.schema import Gain, Result

ROW_NAMES = {  # row of a result (the encoder, a control) -> its name in tables
    "encoder": "encoder",
    "random": "same net, untrained",
    "pixels": "raw pixels",
    "single_frame": "one frame repeated",
    "shuffled": "frames shuffled",
}


def format_percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def format_interval(interval: Sequence[float], scale: str = "") -> str:
    low, high = (100 * end for end in interval)
    return f"{low:{scale}.1f} to {high:{scale}.1f}"


def format_gain(gain: Gain) -> str:
    """The gain of the encoder in percentage points, or that no difference is shown."""
    points = f"{100 * gain.difference:+.1f}" if gain.shown else "no difference shown"
    return f"{points} ({format_interval(gain.interval, '+')})"


def format_score(result: Result) -> str:
    """The main number, with its standard deviation if it is a mean."""
    spread, over = result.score.spread, describe_mean(result)
    if spread is None or not over:
        return format_percent(result.score.value)
    return f"{100 * result.score.value:.1f} +- {100 * spread:.1f} % ({over})"


def describe_mean(result: Result) -> str:
    """What the numbers are means over, such as "3 seeds"; empty if they are no means."""
    seeds = len(result.seeds or ())
    return result.over or (f"{seeds} seeds" if seeds > 1 else "")


def format_control_score(result: Result, row: str) -> str:
    return format_percent(result.controls[row].value) if row in result.controls else ""


def format_gain_over_untrained(result: Result) -> str:
    return format_gain(result.gains["random"]) if "random" in result.gains else ""


def format_line(result: Result) -> str:
    """One line about the result: its score, untrained and chance, and the gain."""
    references = []
    if "random" in result.controls:
        references.append(f"untrained {format_control_score(result, 'random')}")
    if result.chance is not None:
        references.append(f"chance {format_percent(result.chance)}")
    name = f"{result.encoder.title}, {result.cell}"
    clauses = [
        f"{name}: {format_score(result)} ({format_interval(result.score.interval)})",
        ", ".join(references),
        format_gain_over_untrained(result),
    ]
    return "; ".join(clause for clause in clauses if clause)
