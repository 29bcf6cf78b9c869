"""(video, seed) -> the script of a film, and what a careless narrator says about it.

This is the only file that makes up sentences. Every action shows one shape of one colour once in
its video, so its sentence is true at one time. The narrator is late (normal with mean and deviation
LATE), IRRELEVANT of the sentences are about nothing that is shown (half of them small talk, half
about an action that this video does not show), and SWAPPED of the neighbours are exchanged. The
true times stay known.
"""

import itertools
from typing import NamedTuple

import torch

from ssvid.randomness import uniform

# Hue in turns of the colour circle.
COLOURS = {"red": 0.0, "yellow": 0.16, "green": 0.33, "cyan": 0.5, "blue": 0.65, "pink": 0.85}
SHAPES = "square", "triangle", "star", "bar"  # as ssvid.data.synthetic draws them
# Direction: pictures across and down.
WAYS = {"rises": (0, -1), "falls": (0, 1), "goes right": (1, 0), "goes left": (-1, 0)}
LEADS = "now", "next", "here", "then", "and so", "look how"
CHATTER = (
    "thanks for watching my channel",
    "do not forget to subscribe",
    "leave a comment below",
    "this took me a long time to learn",
    "my grandmother told me about it",
    "you will need some patience today",
    "the weather is lovely this morning",
    "let me know what you think",
)
ACTION_S, PAUSE_S, WORDS_S = (7.0, 9.0), (1.0, 3.0), (2.0, 5.0)  # seconds: from, to
LATE = 4.0, 4.0  # seconds: mean, deviation
IRRELEVANT, SWAPPED = 0.3, 0.1
COLOURED_SHAPES = tuple(itertools.product(COLOURS, SHAPES))


class Action(NamedTuple):
    start: float  # seconds
    end: float
    colour: str
    shape: str
    way: str


class Utterance(NamedTuple):
    """A sentence with the time when it is heard."""

    start: float  # seconds
    end: float
    text: str
    true: tuple[float, float] | None  # when it is shown; None: this video does not show it


def write_script(index: int, seed: int, seconds: int) -> list[Action]:
    """Pause, action, pause, ... to the end of the video. No coloured shape occurs twice."""
    n = len(COLOURED_SHAPES)
    u = uniform(seed, "script", 0, index, 4 * n)[0].view(-1, 4).tolist()
    order = uniform(seed, "things", 0, index, n)[0].argsort().tolist()
    actions, end = [], 0.0
    for (pause, length, way, _), i in zip(u, order, strict=True):
        start = end + between(PAUSE_S, pause)
        end = start + between(ACTION_S, length)
        if end > seconds - PAUSE_S[0]:
            break
        colour, shape = COLOURED_SHAPES[i]
        actions.append(Action(start, end, colour, shape, tuple(WAYS)[int(way * len(WAYS))]))
    return actions


def narrate(actions: list[Action], index: int, seed: int, seconds: int) -> list[Utterance]:
    """The utterances about a script, in the order in which they are heard."""
    n = len(actions)
    extra = round(n * IRRELEVANT / (1 - IRRELEVANT))
    u = uniform(seed, "narrator", 0, index, 4 * (n + extra))[0].view(-1, 4)
    delays = (LATE[0] + LATE[1] * torch.special.ndtri(u[:n, 0].double())).tolist()
    utterances = []
    for action, delay, (_, lead, _, _) in zip(actions, delays, u[:n].tolist(), strict=True):
        start = min(max(action.start + delay, 0.0), seconds - 1.0)
        end = min(max(action.end + delay, start + 1.0), float(seconds))
        utterances.append(Utterance(start, end, make_sentence(action, lead), action[:2]))
    shown = {action[2:4] for action in actions}
    absent = [pair for pair in COLOURED_SHAPES if pair not in shown]
    for i, (when, length, lead, choice) in enumerate(u[n:].tolist()):
        start = when * (seconds - WORDS_S[1])
        text = CHATTER[int(choice * len(CHATTER))]
        if i % 2 and absent:
            way = tuple(WAYS)[int(choice * len(absent) % 1 * len(WAYS))]
            action = Action(0, 0, *absent[int(choice * len(absent))], way)
            text = make_sentence(action, lead)
        utterances.append(Utterance(start, start + between(WORDS_S, length), text, None))
    utterances.sort(key=lambda utterance: utterance.start)
    u_swaps = uniform(seed, "swaps", 0, index, len(utterances))[0].tolist()
    return swap_neighbours(utterances, u_swaps)


def swap_neighbours(utterances: list[Utterance], u: list[float]) -> list[Utterance]:
    """Some neighbours exchange their sentences, each at most once. The times of speech stay.

    `u`: a uniform for each utterance; one below SWAPPED exchanges it with the next.
    """
    swapped, i = list(utterances), 0
    while i + 1 < len(swapped):
        if u[i] < SWAPPED:
            first, second = swapped[i], swapped[i + 1]
            swapped[i] = first._replace(text=second.text, true=second.true)
            swapped[i + 1] = second._replace(text=first.text, true=first.true)
            i += 1
        i += 1
    return swapped


def make_sentence(action: Action, lead: float) -> str:
    """`now the red square rises`. `lead`: the uniform that chooses the first word."""
    return f"{LEADS[int(lead * len(LEADS))]} the {action.colour} {action.shape} {action.way}"


def between(limits: tuple[float, float], u: float) -> float:
    return limits[0] + u * (limits[1] - limits[0])
