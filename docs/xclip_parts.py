"""What each part of X-CLIP gives, on films of ours: every variant is trained and tested.

    python docs/xclip_parts.py BASE OUT --data_root FOLDER [--part 0 --parts 2]
    python docs/xclip_parts.py --table OUT

BASE is a run of recipes/clip_captioned.yaml: a CLIP of single pictures, whose sentences name colour
and shape and place, but no motion. Every variant begins from it and learns to name motions, with
the settings of recipes/xclip_captioned.yaml and equal steps. A line of OUT/parts.jsonl is one
training; those that it has are not made again. Films are decoded once and kept in memory, so the
loop of training is a short one of this file.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from study import Films, draw_batches, format_scores, read_films, read_lines
from torch import Tensor

from objectives.xclip import XCLIP
from ssvid import create_encoder
from ssvid.data.datasets.few_shot import draw_rows
from ssvid.data.datasets.synthetic_captioned import synthetic_captioned
from ssvid.data.manifest import Manifest
from ssvid.engine import optim
from ssvid.engine.features import cpu_seconds
from ssvid.engine.warm_start import warm_start
from ssvid.files import read_yaml
from ssvid.recipe import SHIPPED
from ssvid.results.provenance import read_commit
from ssvid.text.wording import word_classes

RECIPE: dict[str, Any] = read_yaml(SHIPPED / "xclip_captioned.yaml", "recipe")
NAMES = "a vector for each class"
STILL = {"exchange": "none", "joiner_layers": 0}
BARE = {"prompts": "name"}
# Variant -> the arguments of the encoder and of the objective in which it differs from the whole.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mean-pooled CLIP": (STILL, BARE),
    "without messages": ({"exchange": "none"}, {}),
    "without joiner": ({"joiner_layers": 0}, {}),
    "without prompts (bare name)": ({}, BARE),
    "whole": ({}, {}),
    NAMES: ({}, {"tower": "names", "prompts": "name", "text": None}),
    "text trained": ({}, {"train": "text"}),
    "text and video trained": ({}, {"train": "both"}),
    "templates": ({}, {"prompts": "template"}),
    "learnt context (CoOp)": ({}, {"prompts": "context"}),
    "joint attention": ({"exchange": "joint"}, {}),
    "divided attention": ({"exchange": "divided"}, {}),
}
MAIN = 8  # of the variants come first
FEW = [  # that are also trained on two films of a class
    *("without prompts (bare name)", "whole", NAMES, "text trained", "text and video trained"),
    *("templates", "learnt context (CoOp)"),
]
SHOTS, FEW_STEPS, SEEDS = 2, 150, 3
# Orders of two motions: a part of the orders occurs in test alone, though each word is trained.
ORDERED = ["without prompts (bare name)", "whole", "text and video trained"]
WAYS = ("moves left", "moves right", "moves up", "moves down")
UNSEEN = (
    *("moves left then moves up", "moves right then moves down"),
    *("moves up then moves right", "moves down then moves left"),
)


def create_objective(variant: str, base: str, classes: tuple[str, ...], seed: int) -> XCLIP:
    of_encoder, of_objective = VARIANTS[variant]
    torch.manual_seed(seed)
    settings = {**RECIPE["encoder"], **of_encoder}
    net = create_encoder(settings.pop("name"), **settings)
    arguments = {**RECIPE["objective"], "text": base, **of_objective}
    arguments.pop("name")
    objective = XCLIP(net, **arguments)
    objective.set_classes(classes)
    warm_start(objective, base)
    return objective


def train(objective: XCLIP, films: Films, steps: int, seed: int) -> None:
    """AdamW with warm-up and a cosine, as the recipe says."""
    decay, betas = RECIPE["weight_decay"], tuple(RECIPE["betas"])
    factors = objective.compute_rate_factors()
    optimizer = optim.make("adamw", objective, decay, betas, factors)
    labels = films.data.labels
    batches = draw_batches(len(labels), min(RECIPE["batch_size"], len(labels)), seed)
    warmup = int(RECIPE["warmup"] * steps)
    objective.train()
    for step in range(steps):
        _, rows = next(batches)
        clips = objective.encoder.normalise(films.clips[rows])
        batch = {"clips": clips[:, None], "label": labels[rows], "index": rows}
        batch |= {"epoch": torch.full_like(rows, step), "seed": seed}
        peak = optim.rate(step, steps, peak=RECIPE["lr"], warmup=warmup, last=0.0)
        optim.set_rates(optimizer, peak, freeze=False)
        optimizer.zero_grad()
        objective(batch).total.backward()  # type: ignore[arg-type]
        optim.clip_norm(objective, RECIPE["clip_grad"])
        optimizer.step()
        objective.after_step(step / steps)


@torch.inference_mode()
def name_films(objective: XCLIP, films: Films) -> Tensor:
    """Whether each film is named rightly, among all classes of the data set."""
    objective.eval()
    space, net = objective.joint_space(), objective.encoder
    vectors = []
    for sentences in word_classes(films.data.classes, objective.templates):
        vectors.append(space.embed_texts(sentences))
    texts, answers = space.average_texts(torch.stack(vectors)), []
    for clips in films.clips.split(50):
        features = net(net.normalise(clips), layers=space.layers or None)
        answers.append(space.compare(space.read_clips(features), texts).argmax(1))
    return torch.cat(answers) == films.data.labels


class Study:
    """Trains what OUT/parts.jsonl lacks."""

    def __init__(self, base: str, out: Path, data_root: str) -> None:
        self.base, self.file, self.root = base, out / "parts.jsonl", data_root
        out.mkdir(parents=True, exist_ok=True)
        self.films: dict[bool, tuple[Films, Films]] = {}

    def get_films(self, ordered: bool) -> tuple[Films, Films]:
        """Train and test."""
        if ordered not in self.films:
            settings = {key: x for key, x in RECIPE["data"].items() if key != "name"}
            if ordered:
                settings |= {"acts": 2, "motions": WAYS, "unseen": UNSEEN}
            settings["motions"] = tuple(settings["motions"])
            data = synthetic_captioned(self.root, **settings)
            encoder = {**RECIPE["encoder"]}
            net = create_encoder(encoder.pop("name"), **encoder)
            splits = (read_films(data.split(name), net) for name in ("train", "test"))
            self.films[ordered] = tuple(splits)  # type: ignore[assignment]
        return self.films[ordered]

    def run(self, part: int, parts: int) -> None:
        """Every `parts`-th training from `part` on, so that several processes can share them."""
        keys = []
        names = list(VARIANTS)
        questions = [("all", names[:MAIN]), (f"{SHOTS} films a class", FEW)]
        questions += [("all", names[MAIN:]), ("orders", ORDERED)]
        for question, variants in questions:
            keys += list(itertools.product([question], variants, range(SEEDS)))
        for question, variant, seed in keys[part::parts]:
            self.run_once(question, variant, seed)

    def run_once(self, question: str, variant: str, seed: int) -> None:
        lines = read_lines(self.file)
        if any(line["key"] == [question, variant, seed] for line in lines):
            return
        began = cpu_seconds()
        films, test = self.get_films(question == "orders")
        steps = RECIPE["steps"]
        if question.startswith(str(SHOTS)):
            rows = list(films.data.rows)
            chosen = [rows.index(row) for row in draw_rows(rows, SHOTS, seed)]
            films, steps = films.take(chosen), FEW_STEPS
        classes = films.data.classes
        if question == "orders":
            classes = tuple(name for name in classes if name not in UNSEEN)
            films = films._replace(data=relabel(films.data, classes))
        objective = create_objective(variant, self.base, classes, seed)
        train(objective, films, steps, seed)
        right = name_films(objective, test).double()
        line: dict[str, Any] = {"key": [question, variant, seed], "top1": right.mean().item()}
        if question == "orders":
            unseen = torch.tensor([row.label in UNSEEN for row in test.data.rows])
            line |= {"seen": right[~unseen].mean().item(), "unseen": right[unseen].mean().item()}
        line |= {"steps": steps, "cpu_s": round(cpu_seconds() - began, 1), "git": read_commit()}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


def relabel(data: Manifest, classes: tuple[str, ...]) -> Manifest:
    """The same films, whose labels are counted among fewer classes."""
    return Manifest(data.rows, data.root, classes)


def print_table(lines: list[dict[str, Any]]) -> None:
    """Means over seeds, and differences to the whole."""
    for question in ("all", f"{SHOTS} films a class", "orders"):
        print(
            f"\n{question}\n\n| variant | top-1 | difference to the whole (95 %) |\n|---|---|---|"
        )
        for variant in VARIANTS:
            scores = find_scores(lines, question, variant)
            if scores:
                whole = find_scores(lines, question, "whole")
                print(f"| {variant} | {format_scores(scores, whole)} |")
    for part in ("seen", "unseen"):
        for variant in ORDERED:
            scores = find_scores(lines, "orders", variant, part)
            if scores:
                whole = find_scores(lines, "orders", "whole", part)
                print(f"{part} orders, {variant}: {format_scores(scores, whole)}")


def find_scores(
    lines: list[dict[str, Any]], question: str, variant: str, part: str = "top1"
) -> dict[int, float]:
    """Seed -> per cent."""
    scores = {}
    for line in lines:
        if line["key"][:2] == [question, variant]:
            scores[line["key"][2]] = 100 * line[part]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--data_root", default=".cache/ssvid")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--table", default="", help="OUT: print the tables of its lines")
    options = parser.parse_args()
    if options.table:
        print_table(read_lines(Path(options.table) / "parts.jsonl"))
        return
    torch.set_num_threads(1)
    Study(options.base, Path(options.out), options.data_root).run(options.part, options.parts)


if __name__ == "__main__":
    main()
