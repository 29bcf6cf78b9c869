"""(video, seed) -> a film script and what a careless narrator says of it: the only place that makes up sentences.

Every action shows one shape of one colour once in its video, so its sentence is true at one time. The narrator is late
(normal, mean and deviation LATE seconds), says IRRELEVANT of the sentences of nothing that is seen (half of them small
talk, half of an action that this video does not show), and exchanges SWAPPED of neighbours. What is true stays known.
"""

import itertools
from typing import NamedTuple

import torch

from ssvid.randomness import uniform

COLOURS = {
    "red": 0.0,
    "yellow": 0.16,
    "green": 0.33,
    "cyan": 0.5,
    "blue": 0.65,
    "pink": 0.85,
}  # hue in turns
SHAPES = "square", "triangle", "star", "bar"  # as ssvid.data.synthetic draws them
WAYS = {
    "rises": (0, -1),
    "falls": (0, 1),
    "goes right": (1, 0),
    "goes left": (-1, 0),
}  # pictures across and down
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
ACTION_S, PAUSE_S, WORDS_S = (7.0, 9.0), (1.0, 3.0), (2.0, 5.0)  # from, to
LATE = 4.0, 4.0
IRRELEVANT, SWAPPED = 0.3, 0.1
THINGS = tuple(itertools.product(COLOURS, SHAPES))


class Action(NamedTuple):
    start: float  # seconds
    end: float
    colour: str
    shape: str
    way: str


class Said(NamedTuple):
    """A sentence as it is heard, and when it is true: None of what this video does not show."""

    start: float
    end: float
    text: str
    true: tuple[float, float] | None


def script(index: int, seed: int, seconds: int) -> list[Action]:
    """Pause, action, pause, ... to the end of the video, no thing twice."""
    u = uniform(seed, "script", 0, index, 4 * len(THINGS))[0].view(-1, 4).tolist()
    order = uniform(seed, "things", 0, index, len(THINGS))[0].argsort().tolist()
    actions, now = [], 0.0
    for (pause, length, way, _), thing in zip(u, order, strict=True):
        start = now + between(PAUSE_S, pause)
        now = start + between(ACTION_S, length)
        if now > seconds - PAUSE_S[0]:
            break
        colour, shape = THINGS[thing]
        actions.append(Action(start, now, colour, shape, tuple(WAYS)[int(way * len(WAYS))]))
    return actions


def narrate(actions: list[Action], index: int, seed: int, seconds: int) -> list[Said]:
    """In the order in which it is heard."""
    n = len(actions)
    extra = round(n * IRRELEVANT / (1 - IRRELEVANT))
    u = uniform(seed, "narrator", 0, index, 4 * (n + extra))[0].view(-1, 4)
    late = (LATE[0] + LATE[1] * torch.special.ndtri(u[:n, 0].double())).tolist()
    said = []
    for action, delay, (_, lead, _, _) in zip(actions, late, u[:n].tolist(), strict=True):
        start = min(max(action.start + delay, 0.0), seconds - 1.0)
        end = min(max(action.end + delay, start + 1.0), float(seconds))
        said.append(Said(start, end, sentence(action, lead), action[:2]))
    shown = {action[2:4] for action in actions}
    absent = [thing for thing in THINGS if thing not in shown]
    for i, (when, length, lead, what) in enumerate(u[n:].tolist()):
        start = when * (seconds - WORDS_S[1])
        text = CHATTER[int(what * len(CHATTER))]
        if i % 2 and absent:
            way = tuple(WAYS)[int(what * len(absent) % 1 * len(WAYS))]
            text = sentence(Action(0, 0, *absent[int(what * len(absent))], way), lead)
        said.append(Said(start, start + between(WORDS_S, length), text, None))
    return swapped(
        sorted(said, key=lambda one: one.start),
        uniform(seed, "swaps", 0, index, len(said))[0].tolist(),
    )


def swapped(said: list[Said], u: list[float]) -> list[Said]:
    """Neighbours that have exchanged what they say, each at most once; the times of speech stay."""
    said, at = list(said), 0
    while at + 1 < len(said):
        if u[at] < SWAPPED:
            first, second = said[at], said[at + 1]
            said[at] = first._replace(text=second.text, true=second.true)
            said[at + 1] = second._replace(text=first.text, true=first.true)
            at += 1
        at += 1
    return said


def sentence(action: Action, lead: float) -> str:
    return f"{LEADS[int(lead * len(LEADS))]} the {action.colour} {action.shape} {action.way}"


def between(limits: tuple[float, float], u: float) -> float:
    return limits[0] + u * (limits[1] - limits[0])
