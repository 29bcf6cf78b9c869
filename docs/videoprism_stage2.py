"""What each part of VideoPrism's second stage gives, on films of ours.

    python docs/videoprism_stage2.py TEACHER OUT --data_root FOLDER [--part 0 --parts 2]
    python docs/videoprism_stage2.py --table OUT

TEACHER is a run of recipes/videoprism_stage1_small.yaml, whose sentences tell colour, shape and
place and no motion. `{seed}` in its name stands for the seed, where each seed has a teacher.
Every variant begins with its weights and learns from the same films, batches and steps, with the
settings of the recipe; `mae` has the same masks and a decoder of the same size. Then the frozen
tokens are probed, by the attentive probe with its defaults, for what the film shows (colour and
shape) and for how it moves. A line of OUT/stage2.jsonl is one training; those that it has are not
made again. Films are decoded once and kept in memory.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from study import Films, draw_batches, format_scores, read_films, read_lines
from torch import Tensor

from benchmarks.probes.attentive import Attentive
from objectives.mae import MAE
from objectives.masked_distillation import MaskedDistillation
from ssvid import create_encoder, load_encoder
from ssvid.data.datasets.synthetic_captioned import synthetic_captioned
from ssvid.data.manifest import Manifest
from ssvid.encoder import Encoder, evaluating
from ssvid.engine import optim
from ssvid.engine.features import cpu_seconds
from ssvid.engine.warm_start import start_encoder
from ssvid.files import read_yaml
from ssvid.objective import Objective
from ssvid.recipe import SHIPPED
from ssvid.results.provenance import read_commit
from ssvid.shapes import Frozen

RECIPE: dict[str, Any] = read_yaml(SHIPPED / "videoprism_stage2_small.yaml", "recipe")
UNTRAINED, STAGE_1, WHOLE, MAE_NAME = "untrained", "stage 1", "stage 2", "mae"
# Variant -> the arguments of the objective in which it differs from the whole.
VARIANTS: dict[str, dict[str, Any]] = {
    UNTRAINED: {},
    STAGE_1: {},
    WHOLE: {},
    "without shuffling": {"shuffle": False},
    "without the global loss": {"global_loss": False},
    "without the local loss": {"local": False},
    MAE_NAME: {},
}
SEEDS = 3
PROBED = 1200  # training films whose tokens the probes learn from; they choose on val
QUESTIONS = {"appearance": ("colour", "shape"), "motion": ("motion",)}  # columns of the films
AT_ONCE = 50  # films in a pass of the frozen encoder


def create_net() -> Encoder:
    settings = dict(RECIPE["encoder"])
    return create_encoder(settings.pop("name"), **settings)


def create_objective(variant: str, teacher: str, seed: int) -> Objective:
    torch.manual_seed(seed)
    net, arguments = create_net(), dict(RECIPE["objective"])
    arguments.pop("name")
    if variant != MAE_NAME:
        return MaskedDistillation(net, teacher=teacher, **{**arguments, **VARIANTS[variant]})
    start_encoder(net, dict(load_encoder(teacher).state_dict()), teacher)
    decoder = {name: arguments[name] for name in ("dec_dim", "dec_depth", "dec_heads", "augment")}
    return MAE(net, mask="bevt", mask_ratio=0.65, dec_positions="joint", **decoder)


def train(objective: Objective, films: Films, steps: int, seed: int) -> dict[str, float]:
    """AdamW with warm-up and a cosine, as the recipe says. The parts of the last loss."""
    decay, peak = RECIPE["weight_decay"], RECIPE["lr"]
    optimizer = optim.make("adamw", objective, decay, (0.9, 0.95), {})
    batches = draw_batches(len(films.clips), RECIPE["batch_size"], seed)
    warmup = int(RECIPE["warmup"] * steps)
    objective.train()
    parts: dict[str, Tensor] = {}
    for step in range(steps):
        epoch, rows = next(batches)
        clips = objective.encoder.normalise(films.clips[rows])
        batch: Any = {"clips": clips[:, None], "index": rows, "seed": seed}
        batch["epoch"] = torch.full_like(rows, epoch)
        rate = optim.rate(step, steps, peak=peak, warmup=warmup, last=RECIPE["min_lr"])
        optim.set_rates(optimizer, rate, freeze=False)
        optimizer.zero_grad()
        loss = objective(batch)
        loss.total.backward()
        optim.clip_norm(objective, RECIPE["clip_grad"])
        optimizer.step()
        objective.after_step(step / steps)
        parts = loss.parts
    return {name: round(float(part), 4) for name, part in parts.items()}


@torch.no_grad()
def freeze_tokens(net: Encoder, films: Films, columns: tuple[str, ...]) -> Frozen:
    tokens = []
    with evaluating(net):
        for clips in films.clips.split(AT_ONCE):
            tokens.append(net(net.normalise(clips)).tokens)
    labels = read_labels(films.data, columns)
    return Frozen({"tokens": torch.cat(tokens)}, labels, list(films.data.video_ids))


def read_labels(data: Manifest, columns: tuple[str, ...]) -> Tensor:
    """The class of each film: the words of these columns."""
    names = []
    for row in data.rows:
        words = dict(row.columns)
        names.append(" ".join(words[column] for column in columns))
    numbers = {name: i for i, name in enumerate(sorted(set(names)))}
    return torch.tensor([numbers[name] for name in names])


class Study:
    """Trains and probes what OUT/stage2.jsonl lacks."""

    def __init__(self, teacher: str, out: Path, data_root: str, steps: int, seeds: int) -> None:
        self.teacher, self.file, self.steps, self.seeds = (
            teacher,
            out / "stage2.jsonl",
            steps,
            seeds,
        )
        out.mkdir(parents=True, exist_ok=True)
        settings = {key: x for key, x in RECIPE["data"].items() if key != "name"}
        data, net = synthetic_captioned(data_root, **settings), create_net()
        self.films = {name: read_films(data.split(name), net) for name in ("train", "val", "test")}

    def run(self, part: int, parts: int) -> None:
        """Every `parts`-th training from `part` on, so that several processes can share them."""
        keys = list(itertools.product(range(self.seeds), VARIANTS))
        for seed, variant in keys[part::parts]:
            self.run_once(variant, seed)

    def run_once(self, variant: str, seed: int) -> None:
        if any(line["key"] == [variant, seed] for line in read_lines(self.file)):
            return
        began, teacher = cpu_seconds(), self.teacher.replace("{seed}", str(seed))
        losses: dict[str, float] = {}
        if variant == UNTRAINED:
            torch.manual_seed(seed)
            net = create_net()
        elif variant == STAGE_1:
            net = load_encoder(teacher)
        else:
            objective = create_objective(variant, teacher, seed)
            losses = train(objective, self.films["train"], self.steps, seed)
            net = objective.encoder
        trained = cpu_seconds()
        line: dict[str, Any] = {"key": [variant, seed], "steps": self.steps, "losses": losses}
        for question, columns in QUESTIONS.items():
            line[question] = self.probe(net, columns, seed)
        line |= {"train_cpu_s": round(trained - began, 1)}
        line |= {"probe_cpu_s": round(cpu_seconds() - trained, 1), "git": read_commit()}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    def probe(self, net: Encoder, columns: tuple[str, ...], seed: int) -> float:
        """Top-1 of the test films."""
        few = self.films["train"]
        few = Films(few.data.take(list(range(min(PROBED, len(few.data))))), few.clips[:PROBED])
        splits = [freeze_tokens(net, films, columns) for films in (few, *self.held_out())]
        return Attentive().run(*splits, seed).metrics["test/top1"]

    def held_out(self) -> tuple[Films, Films]:
        return self.films["val"], self.films["test"]


def print_table(lines: list[dict[str, Any]]) -> None:
    """Means over seeds, and differences to the whole."""
    print("| variant | appearance | to stage 2 (95 %) | motion | to stage 2 (95 %) |")
    print("|---|---|---|---|---|")
    for variant in VARIANTS:
        cells = []
        for question in QUESTIONS:
            scores = find_scores(lines, variant, question)
            if scores:
                cells.append(format_scores(scores, find_scores(lines, WHOLE, question)))
        if cells:
            print(f"| {variant} | {' | '.join(cells)} |")


def find_scores(lines: list[dict[str, Any]], variant: str, question: str) -> dict[int, float]:
    """Seed -> per cent."""
    scores = {}
    for line in lines:
        if line["key"][0] == variant:
            scores[line["key"][1]] = 100 * line[question]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--data_root", default=".cache/ssvid")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--steps", type=int, default=RECIPE["steps"])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--table", default="", help="OUT: print the table of its lines")
    options = parser.parse_args()
    if options.table:
        print_table(read_lines(Path(options.table) / "stage2.jsonl"))
        return
    torch.set_num_threads(1)
    study = Study(
        options.teacher, Path(options.out), options.data_root, options.steps, options.seeds
    )
    study.run(options.part, options.parts)


if __name__ == "__main__":
    main()
