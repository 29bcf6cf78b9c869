"""results -> the sentences below their table: warnings, how to read it, what its rows need said."""

from collections.abc import Callable, Iterable, Sequence

from benchmarks.reports.cell_titles import group_cells
from benchmarks.reports.page_heads import count, name_data, title_of
from benchmarks.reports.verdict import WARNING
from ssvid.results import TUNED, Result
from ssvid.results.text import TOO_FEW, is_old, name_row
from ssvid.results.unlike import list_clip_changes
from ssvid.statistics import TOO_FEW_GROUPS, find_least_p

LONGEST = 4  # names in a note; more are counted


def list_notes(results: list[Result]) -> list[str]:
    """Sentences under the head of the report. Warnings begin with WARNING and come first."""
    notes = [
        *warn_of_leaks(results),
        *warn_of_names(results),
        *explain_inference(results),
        *note_groups(results),
        *note_ungrouped(results),
        *note_single_val(results),
        *note_readers(results),
        *note_clips(results),
        *collect_notes(results),
        *note_encoders(results),
    ]
    return list(dict.fromkeys(notes))


def warn_of_leaks(results: list[Result]) -> list[str]:
    leaks = []
    for result in results:
        if result.leak.clips:
            leaks.append(
                f"{WARNING}: {result.encoder.title} was trained on {result.leak.clips} of the test "
                "clips: its scores are not valid."
            )
    return leaks


def warn_of_names(results: list[Result]) -> list[str]:
    hashes: dict[str, set[str]] = {}
    for result in results:
        hashes.setdefault(title_of(result), set()).add(result.encoder.hash)
    several = [title for title, unlike in hashes.items() if len(unlike) > 1]
    text = f"{WARNING}: several encoders (of different hashes) are called {{}}."
    return list(map(text.format, several))


def explain_inference(results: list[Result]) -> list[str]:
    notes = []
    tested = 0
    for result in results:
        tested += sum(gain.p is not None for gain in result.gains.values())
    if tested:
        together = f"all {tested} differences of this table together" if tested > 1 else "it alone"
        notes.append(
            "Intervals of scores are 95 %, over groups of test clips. A difference is shown if "
            "random signs of the groups' differences seldom give as much, by Holm's rule over "
            f"{together}. Its interval is that test "
            "inverted, at the level that stands before it; p is before Holm's rule. The least gain "
            "to be shown is the one that such a test shows four times in five."
        )
    if any(map(is_old, results)):
        notes.append(
            "Old inference: a file of before schema 3. Its intervals are percentile bootstraps, "
            "its untrained net is one draw, its floor is one probe on four weak descriptors, and "
            "nothing is corrected for the number of differences. Run it anew before you trust it."
        )
    if any(result.kind != TUNED for result in results):
        notes.append("Settings are chosen on val. A command reads test once.")
    if any(result.kind == TUNED for result in results):
        notes.append(
            "Fine-tuning trains the encoder on the labels. Its untrained row is the same training "
            "from random weights."
        )
    return notes


def note_groups(results: list[Result]) -> list[str]:
    """How many groups there are, and the least p that they allow."""

    def describe(result: Result) -> str:
        groups = len(set(result.test.groups))
        if not any(gain.p is not None for gain in result.gains.values()):
            return ""
        text = (
            f"{count(groups, 'group')} of test clips, so p is at least {find_least_p(groups):.2g}"
        )
        return f"{text}: {TOO_FEW}." if groups <= TOO_FEW_GROUPS else f"{text}."

    return note_cells(results, describe)


def note_ungrouped(results: list[Result]) -> list[str]:
    def describe(result: Result) -> str:
        if not result.is_ungrouped:
            return ""
        return (
            "every test clip counts as a source of its own. If clips share a film or a person, "
            "name their groups, or intervals are too narrow."
        )

    return note_cells(results, describe)


def note_single_val(results: list[Result]) -> list[str]:
    def describe(result: Result) -> str:
        if result.kind == TUNED or result.data.groups.get("val") != 1:
            return ""
        return "val is one group, so what it chooses may suit that group alone."

    return note_cells(results, describe)


def note_cells(results: list[Result], describe: Callable[[Result], str]) -> list[str]:
    """`describe`: the note of a result, or empty. Cells with the same note share a sentence."""
    cells: dict[str, dict[str, None]] = {}
    for result in results:
        if describe(result):
            cells.setdefault(describe(result), {})[result.cell] = None
    return [f"{join_names(names, 'cell')}: {note}" for note, names in cells.items()]


def join_names(names: Iterable[str], noun: str) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique) if len(unique) <= LONGEST else count(len(unique), noun)


def note_readers(results: list[Result]) -> list[str]:
    """How often a test set was read: the best of many encoders is good by chance too."""
    readers: dict[str, int] = {}
    for result in results:
        if result.ledger:  # untrained encoders are not counted
            name = name_data(result.data.set) or f"data {result.data.hash[:8]}"
            readers[name] = max(result.ledger, readers.get(name, 0))
    notes = []
    for name, number in readers.items():
        have = "has" if number == 1 else "have"
        notes.append(f"{count(number, 'distinct encoder')} {have} read the test set of {name}.")
    return notes


def note_clips(results: list[Result]) -> list[str]:
    cells: dict[str, list[str]] = {}
    for cell, members in group_cells(results).items():
        keys: dict[str, None] = {}
        for result in members[1:]:
            keys |= dict.fromkeys(list_clip_changes(members[0], result))
        if keys:
            cells.setdefault(", ".join(sorted(keys)), []).append(cell)
    notes = []
    for keys_text, names in cells.items():
        cell_names = join_names(names, "cell")
        notes.append(f"{cell_names}: each encoder sees clips of its own ({keys_text} differ).")
    return notes


def collect_notes(results: list[Result]) -> list[str]:
    """What results bring with them, and the warnings of their probes."""
    titles: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            titles.setdefault(note, []).append(title_of(result))
        for row, score in result.rows.items():
            for warning in score.details.get("warnings", ()):
                cell_row = f"{result.cell}, {name_row(result, row)}"
                titles.setdefault(f"{cell_row}: {warning}", []).append(title_of(result))
    everyone = set(map(title_of, results))
    return [name_titles(note, members, everyone) for note, members in titles.items()]


def name_titles(note: str, titles: Sequence[str], everyone: set[str]) -> str:
    return note if set(titles) == everyone else f"{join_names(titles, 'encoder')}: {note}"


def note_encoders(results: list[Result]) -> list[str]:
    notes = []
    for result in results:
        title = result.encoder.title
        if result.encoder.weights != "trained":
            notes.append(f"{title} has random weights.")
        if result.encoder.licence:
            notes.append(f"The weights of {title} are under {result.encoder.licence}.")
    return notes
