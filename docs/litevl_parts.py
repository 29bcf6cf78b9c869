"""What each part of LiteVL gives, on questions about films of ours.

    python docs/litevl_parts.py BASE OUT --data_root FOLDER [--part 0 --parts 2]
    python docs/litevl_parts.py --table OUT

BASE is a run of recipes/blip_captioned.yaml, which knows stills and sentences about them. Every
variant begins from it, and learns from the same films, questions, batches and steps. Frozen, it is
then asked the questions of the test films: what and where, for which one frame may do, and when and
in which order, for which it may not. A line of OUT/litevl.jsonl is one training; those that it has
are not made again. Films are decoded once and kept in memory.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from study import Films, draw_batches, format_scores, read_films, read_lines

from objectives.litevl.questions import LiteVLQuestions
from ssvid import create_encoder, load_encoder
from ssvid.data.datasets.synthetic_qa import synthetic_qa
from ssvid.data.questions import choose_turn
from ssvid.encoder import Encoder, evaluating
from ssvid.engine import optim
from ssvid.engine.features import cpu_seconds
from ssvid.engine.warm_start import start_encoder
from ssvid.files import read_yaml
from ssvid.recipe import SHIPPED
from ssvid.results.provenance import read_commit
from ssvid.shapes import Question
from ssvid.text.joint import TOKENS

RECIPE: dict[str, Any] = read_yaml(SHIPPED / "litevl_qa_small.yaml", "recipe")
WHOLE = "time, scaling and text pooling"
NO_TIME: dict[str, Any] = {"time": False, "scaling": "none"}
UNSCALED: dict[str, Any] = {"time": True, "scaling": "none"}
# Variant -> what it changes of the encoder, and how text pools.
VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "mean over frames (BLIP)": (NO_TIME, "original"),
    "time": (UNSCALED, "original"),
    "time and scaling": ({}, "original"),
    "text pooling": (NO_TIME, "both"),
    WHOLE: ({}, "both"),
}
KINDS = ("what", "where", "when", "order")
SEEDS = 3
AT_ONCE = 20  # films in a pass of the frozen net


def create_objective(base: str, variant: str, seed: int) -> LiteVLQuestions:
    torch.manual_seed(seed)
    changes, pooling = VARIANTS[variant]
    settings = {**RECIPE["encoder"], **changes}
    arguments = {**RECIPE["objective"], "text_pooling": pooling}
    for name in ("name", "options"):  # the base says what its text side is
        del arguments[name]
    encoder = create_encoder(settings.pop("name"), **settings)
    start_encoder(encoder, dict(load_encoder(base).state_dict()), base)
    return LiteVLQuestions(encoder, text=base, **arguments)


def train(objective: LiteVLQuestions, films: Films, steps: int, seed: int) -> float:
    """AdamW with warm-up and a cosine, as the recipe says. The last loss."""
    optimizer = optim.make("adamw", objective, RECIPE["weight_decay"], (0.9, 0.98), {})
    batches = draw_batches(len(films.clips), RECIPE["batch_size"], seed)
    warmup, per_clip = int(RECIPE["warmup"] * steps), objective.per_clip.questions
    objective.train()
    last = 0.0
    for step in range(steps):
        epoch, rows = next(batches)
        questions = []
        for row in rows.tolist():
            of_film = films.data.rows[row].questions
            turn = choose_turn(len(of_film), per_clip, seed, epoch, row)
            questions.append([of_film[number] for number in turn])
        clips = objective.encoder.normalise(films.clips[rows])
        rate = optim.rate(step, steps, peak=RECIPE["lr"], warmup=warmup, last=RECIPE["min_lr"])
        optim.set_rates(optimizer, rate, freeze=False)
        optimizer.zero_grad()
        loss = objective({"clips": clips[:, None], "questions": questions})
        loss.total.backward()
        optim.clip_norm(objective, RECIPE["clip_grad"])
        optimizer.step()
        objective.after_step(step / steps)
        last = float(loss.total)
        if step % 100 == 0:
            print(f"step {step}: loss {last:.3f}", flush=True)
    return round(last, 4)


def list_answers(films: Films) -> dict[str, list[str]]:
    """Kind of question -> the answers that training films have."""
    answers: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for row in films.data.rows:
        for question in row.questions:
            answers[question.kind].add(question.answers[0][0])
    return {kind: sorted(of_kind) for kind, of_kind in answers.items()}


@torch.no_grad()
def ask(objective: LiteVLQuestions, films: Films, answers: list[str]) -> dict[str, float]:
    """The share of right answers of each kind. Every answer of training is read whole."""
    space, net = objective.answer_space().eval(), objective.encoder
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    with evaluating(net):
        for start in range(0, len(films.clips), AT_ONCE):
            tokens = read_tokens(objective, net, films.clips[start : start + AT_ONCE])
            asked: list[Question] = []
            owners: list[int] = []
            for number, row in enumerate(films.data.rows[start : start + AT_ONCE]):
                asked += row.questions
                owners += [number] * len(row.questions)
            texts = [question.text for question in asked]
            ranking = space.rank({TOKENS: tokens[owners]}, texts, answers, len(answers))
            for question, best in zip(asked, ranking.answers[:, 0].tolist(), strict=True):
                right[question.kind].append(answers[best] == question.answers[0][0])
    return {kind: sum(of_kind) / len(of_kind) for kind, of_kind in right.items()}


def read_tokens(objective: LiteVLQuestions, net: Encoder, clips: torch.Tensor) -> torch.Tensor:
    return objective.answer_space().read_clips(net(net.normalise(clips)))[TOKENS]


class Study:
    """Trains and asks what OUT/litevl.jsonl lacks."""

    def __init__(self, base: str, out: Path, data_root: str, steps: int, seeds: int) -> None:
        self.base, self.file = base, out / "litevl.jsonl"
        self.steps, self.seeds = steps, seeds
        out.mkdir(parents=True, exist_ok=True)
        settings = {key: x for key, x in RECIPE["data"].items() if key != "name"}
        data = synthetic_qa(data_root, **settings)
        net = create_objective(base, WHOLE, 0).encoder
        self.films = {name: read_films(data.split(name), net) for name in ("train", "test")}

    def run(self, part: int, parts: int) -> None:
        """Every `parts`-th training from `part` on, so that several processes can share them."""
        keys = list(itertools.product(range(self.seeds), VARIANTS))
        for seed, variant in keys[part::parts]:
            self.run_once(variant, seed)

    def run_once(self, variant: str, seed: int) -> None:
        if any(line["key"] == [variant, seed] for line in read_lines(self.file)):
            return
        began, objective = cpu_seconds(), create_objective(self.base, variant, seed)
        loss = train(objective, self.films["train"], self.steps, seed)
        trained = cpu_seconds()
        answers: list[str] = []
        for of_kind in list_answers(self.films["train"]).values():
            answers += of_kind
        line: dict[str, Any] = {"key": [variant, seed], "steps": self.steps, "loss": loss}
        line |= ask(objective.eval(), self.films["test"], answers)
        scales = getattr(objective.encoder, "read_scales", list)()
        line |= {"scales": [round(scale, 4) for scale in scales]}
        line |= {"train_cpu_s": round(trained - began, 1)}
        line |= {"ask_cpu_s": round(cpu_seconds() - trained, 1), "git": read_commit()}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


def print_table(lines: list[dict[str, Any]]) -> None:
    """Means over seeds, and differences to BLIP with a mean over frames."""
    first = next(iter(VARIANTS))
    heads = " | ".join(f"{kind} | to the first (95 %)" for kind in KINDS)
    print(f"| variant | {heads} |")
    print("|---" * (1 + 2 * len(KINDS)) + "|")
    for variant in VARIANTS:
        cells = []
        for kind in KINDS:
            scores = find_scores(lines, variant, kind)
            if scores:
                cells.append(format_scores(scores, find_scores(lines, first, kind)))
        if cells:
            print(f"| {variant} | {' | '.join(cells)} |")


def find_scores(lines: list[dict[str, Any]], variant: str, kind: str) -> dict[int, float]:
    """Seed -> per cent."""
    scores = {}
    for line in lines:
        if line["key"][0] == variant:
            scores[line["key"][1]] = 100 * line[kind]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--data_root", default=".cache/ssvid")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--steps", type=int, default=RECIPE["steps"])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--table", default="", help="OUT: print the table of its lines")
    options = parser.parse_args()
    if options.table:
        print_table(read_lines(Path(options.table) / "litevl.jsonl"))
        return
    torch.set_num_threads(1)
    study = Study(options.base, Path(options.out), options.data_root, options.steps, options.seeds)
    study.run(options.part, options.parts)


if __name__ == "__main__":
    main()
