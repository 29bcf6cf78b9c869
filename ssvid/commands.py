"""The commands by name: what `ssvid NAME` runs, and how one command starts another.

The table holds texts alone, so it costs no import. A command is imported when it is started.
"""

import importlib
import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

CONSOLE = "SSVID_CONSOLE"  # set in the environment of `ssvid NAME` and of all that it starts
SAFE_PATH = "PYTHONSAFEPATH"  # python's own: the working folder is not put first on the path


class CommandEntry(NamedTuple):
    module: str  # `python -m MODULE` is the same command
    function: str  # MODULE:NAME of the function whose signature gives the flags
    group: str  # heading in the list of commands
    purpose: str  # one line for the list of commands
    first: tuple[str, ...] = ()  # flags whose names may be left out, in this order
    after: str = ""  # the flag that takes all words after --
    recipes_of: str = ""  # a command whose recipes it reads too, passing over flags it has not


LEARN, CLIPS, MEASURE, CLUSTER, TOOLS = "Learn", "Prepare data", "Measure", "Many runs", "Tools"

COMMANDS = {
    "pretrain": CommandEntry(
        "ssvid.pretrain", "ssvid.pretrain:pretrain", LEARN, "pretrain an encoder on clips"
    ),
    "finetune": CommandEntry(
        "ssvid.finetune",
        "ssvid.finetune:finetune",
        LEARN,
        "train an encoder and a classifier on labelled clips, and test them",
    ),
    "extract": CommandEntry(
        "ssvid.extract",
        "ssvid.extract:extract_features",
        LEARN,
        "write the frozen features of every clip",
    ),
    "stages": CommandEntry(
        "ssvid.stages",
        "ssvid.stages:stages",
        LEARN,
        "pretrain in several stages, as a recipe lists them",
        ("recipe",),
        "flags",
    ),
    "prepare": CommandEntry(
        "ssvid.data.prepare",
        "ssvid.data.preprocess.prepare:prepare",
        CLIPS,
        "check a folder of videos and make them fast to read",
    ),
    "flow": CommandEntry(
        "ssvid.data.flow",
        "ssvid.data.preprocess.flow:compute",
        CLIPS,
        "compute the optical flow of videos",
    ),
    "corpus": CommandEntry(
        "ssvid.data.corpus",
        "ssvid.data.corpus:describe_corpus",
        CLIPS,
        "tell what a data set or a mixture holds, and find copies in it and in tests",
        recipes_of="pretrain",
    ),
    "narration": CommandEntry(
        "ssvid.data.narration",
        "ssvid.data.narration.convert:convert_narrations",
        CLIPS,
        "convert transcripts of any format",
    ),
    "words": CommandEntry(
        "ssvid.text.words",
        "ssvid.text.words:collect_words",
        CLIPS,
        "collect the words of narrated videos",
    ),
    "probe": CommandEntry(
        "benchmarks.linear_probe",
        "benchmarks.linear_probe:linear_probe",
        MEASURE,
        "probe frozen encoders beside their controls",
    ),
    "bench": CommandEntry(
        "benchmarks.run", "benchmarks.run:run", MEASURE, "run all tasks of a suite on encoders"
    ),
    "suite": CommandEntry(
        "benchmarks.suite",
        "benchmarks.suite:describe_suite",
        MEASURE,
        "show the tasks of a suite",
        ("suite",),
    ),
    "compare": CommandEntry(
        "benchmarks.compare",
        "benchmarks.compare:compare",
        MEASURE,
        "say which differences between two folders of results are shown",
        ("a", "b"),
    ),
    "vgs": CommandEntry(
        "benchmarks.vgs",
        "benchmarks.vgs:vgs",
        MEASURE,
        "compute the VideoGLUE score from results of several adaptations",
        ("table",),
    ),
    "report": CommandEntry(
        "benchmarks.report",
        "benchmarks.report:reports",
        MEASURE,
        "write the pages of results, of a run or of a sweep",
        ("folder",),
    ),
    "align": CommandEntry(
        "benchmarks.align",
        "benchmarks.align:align",
        MEASURE,
        "find when each sentence of a transcript is seen in a video",
        ("video", "transcript"),
    ),
    "label": CommandEntry(
        "benchmarks.label",
        "benchmarks.label:label",
        MEASURE,
        "say which of your own labels describes a video",
        ("video",),
    ),
    "search": CommandEntry(
        "benchmarks.search",
        "benchmarks.search:search",
        MEASURE,
        "find the moments of a folder of videos that fit a sentence",
        ("folder",),
    ),
    "describe": CommandEntry(
        "benchmarks.describe",
        "benchmarks.describe:describe",
        MEASURE,
        "put a video into words, or answer a question about it",
        ("video",),
    ),
    "explain": CommandEntry(
        "benchmarks.explain",
        "benchmarks.explain:explain",
        MEASURE,
        "show which places of a video's frames make a sentence match it",
        ("video", "sentence"),
    ),
    "ask": CommandEntry(
        "benchmarks.ask",
        "benchmarks.ask:ask",
        MEASURE,
        "answer a question about a video, in words or from your choices",
        ("video", "question"),
    ),
    "sweep": CommandEntry(
        "ssvid.sweep",
        "ssvid.sweep.__main__:submit",
        CLUSTER,
        "train and measure many settings, on SLURM or on this machine",
        ("sweep",),
    ),
    "sweep status": CommandEntry(
        "ssvid.sweep",
        "ssvid.sweep.__main__:show_status",
        CLUSTER,
        "show what each cell does",
        ("out",),
    ),
    "sweep logs": CommandEntry(
        "ssvid.sweep",
        "ssvid.sweep.__main__:show_logs",
        CLUSTER,
        "show the events and the last lines of a cell",
        ("cell", "out"),
    ),
    "sweep cancel": CommandEntry(
        "ssvid.sweep",
        "ssvid.sweep.__main__:cancel",
        CLUSTER,
        "stop cells and keep their checkpoints",
        ("out",),
    ),
    "sweep retry": CommandEntry(
        "ssvid.sweep",
        "ssvid.sweep.__main__:retry",
        CLUSTER,
        "give failed cells new tries",
        ("out",),
    ),
    "sweep report": CommandEntry(
        "ssvid.sweep",
        "ssvid.sweep.__main__:report",
        CLUSTER,
        "write the page of a sweep",
        ("out",),
    ),
    "demo": CommandEntry(
        "benchmarks.demo",
        "benchmarks.demo:demo",
        TOOLS,
        "pretrain and probe on synthetic videos, in minutes",
    ),
    "doctor": CommandEntry(
        "ssvid.doctor", "ssvid.doctor:doctor", TOOLS, "check what works on this machine"
    ),
    "weights": CommandEntry(
        "ssvid.weights",
        "ssvid.weights.__main__:weights",
        TOOLS,
        "describe a file of weights, or write it in another layout",
        ("file",),
    ),
}


def list_names(group: str | None = None) -> list[str]:
    """The commands of a group, or all of them. The words of `sweep` are not commands."""
    names = []
    for name, entry in COMMANDS.items():
        if " " not in name and group in (None, entry.group):
            names.append(name)
    return names


def list_words(command: str) -> list[str]:
    """The words that a command has, such as status of `sweep status`."""
    return [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{command} ")]


def find_name(module: str) -> str | None:
    """The command that `python -m MODULE` runs; None for a module that is not in the table."""
    for name, entry in COMMANDS.items():
        if entry.module == module:
            return name
    return None


def is_console() -> bool:
    """Whether this process, or the one that started it, was started as `ssvid NAME`."""
    return CONSOLE in os.environ


def phrase_command(name: str) -> str:
    """What a user types for a command, in the way in which he started this one."""
    command, _, word = name.partition(" ")
    start = f"ssvid {command}" if is_console() else f"python -m {COMMANDS[command].module}"
    return f"{start} {word}".rstrip()


def phrase_next(name: str, *words: str) -> str:
    """A command with its words, for the key `next` of a result: what the user may type next."""
    return " ".join([phrase_command(name), *map(shlex.quote, words)])


def phrase_module(module: str) -> str:
    """As `phrase_command`, of a module; one that is not in the table is always a module."""
    name = find_name(module)
    return f"python -m {module}" if name is None else phrase_command(name)


def list_start_words(module: str) -> list[str]:
    """The words after `python` that start a module as a process of its own.

    A command that was started as `ssvid NAME` starts others in the same way, so that no folder of
    the user hides our packages.
    """
    name = find_name(module)
    return ["-m", "ssvid", name] if name and is_console() else ["-m", module]


def enter_console() -> None:
    """Make this process, and all that it starts, prefer our packages to those of the user.

    The user's modules are still found: ssvid.trust puts the working folder at the end of the path.
    """
    root, here = str(Path(__file__).parents[1]), os.getcwd()
    first = sys.path[0] if sys.path and not sys.flags.safe_path else None
    if first is not None and os.path.abspath(first) == here:  # as `python -m ssvid` has it
        del sys.path[0]
        if root == here:  # a checkout that is not installed
            folders = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    sys.path.insert(0, root)
    for package in ("objectives", "benchmarks"):  # their modules are then found inside them
        importlib.import_module(package)
    sys.path.remove(root)
    if root == here:
        sys.path.append(root)
    os.environ[CONSOLE] = "1"
    os.environ[SAFE_PATH] = "1"
    # Threads that wait do not spin: on a busy machine that costs several times the work itself
    # (docs/speed.md). It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def list_exports() -> list[str]:
    """Lines of a job script that hand on how this command was started, if by `ssvid NAME`."""
    lines = []
    for name in (CONSOLE, SAFE_PATH, "PYTHONPATH"):
        if is_console() and name in os.environ:
            lines.append(f"export {name}={shlex.quote(os.environ[name])}")
    return lines
