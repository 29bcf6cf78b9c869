"""What each part of X-CLIP gives, on films of ours: every variant is trained and tested.

    python docs/xclip_parts.py BASE OUT --data_root FOLDER [--seeds 3] [--only whole,names]
    python docs/xclip_parts.py --table OUT

BASE is a run of recipes/clip_captioned.yaml: a CLIP of single pictures, whose sentences name colour
and shape and place, but no motion. Every variant begins from it and learns to name motions, by
recipes/xclip_captioned.yaml with equal steps. A line of OUT/parts.jsonl is one training; those
that it has are not made again.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from ssvid.cli import parse
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import eval_clips
from ssvid.engine.features import cpu_seconds
from ssvid.pretrain import pretrain
from ssvid.text.joint_files import load_joint
from ssvid.text.wording import BARE, word_classes
from ssvid.weights.encoders import load_encoder

RECIPE = "recipes/xclip_captioned.yaml"
CONTEXT = ["--objective.prompts", "context"]
NAMES = ["--objective.tower", "names", "--objective.prompts", "name"]
BARE_NAME = ["--objective.prompts", "name"]
STILL = ["--encoder.exchange", "none", "--encoder.joiner_layers", "0"]
# Variant -> the flags in which it differs from the whole of X-CLIP.
VARIANTS: dict[str, list[str]] = {
    "mean-pooled CLIP": [*STILL, *BARE_NAME],
    "without messages": ["--encoder.exchange", "none"],
    "without joiner": ["--encoder.joiner_layers", "0"],
    "without prompts (bare name)": BARE_NAME,
    "whole": [],
    "a vector for each class": NAMES,
    "text trained": ["--objective.train", "text"],
    "text and video trained": ["--objective.train", "both"],
    "templates": ["--objective.prompts", "template"],
    "learnt context (CoOp)": CONTEXT,
    "joint attention": ["--encoder.exchange", "joint"],
    "divided attention": ["--encoder.exchange", "divided"],
}
FEW = [  # those that are also trained on two films of a class
    *("without prompts (bare name)", "whole", "a vector for each class", "text trained"),
    *("text and video trained", "templates", "learnt context (CoOp)"),
]
T_95 = 4.303  # quantile 0.975 of Student's t with two degrees of freedom, for three seeds


def train(variant: str, shots: int, seed: int, options: argparse.Namespace) -> Path:
    """The folder of the trained variant. `shots`: training films of a class; 0: all."""
    name = "".join(letter if letter.isalnum() else "_" for letter in variant)
    out = Path(options.out) / f"{name}_k{shots}_s{seed}"
    words = ["--config", RECIPE, "--out", str(out), "--seed", str(seed)]
    words += ["--init", options.base, *VARIANTS[variant]]
    if variant != "a vector for each class":
        words += ["--objective.text", options.base]
    words += ["--data.root", options.data_root]
    if shots:
        whole = parse(pretrain, [*words])["config"]["data"]
        settings = {key: value for key, value in whole.items() if key not in ("name", "root")}
        words = [word for word in words if word not in ("--data.root", options.data_root)]
        words += ["--data", "few_shot", "--data.source", "synthetic_captioned"]
        words += ["--data.root", options.data_root, "--data.settings", json.dumps(settings)]
        words += ["--data.shots", str(shots), "--data.seed", str(seed)]
        words += ["--steps", "100", "--batch_size", str(min(12, 6 * shots))]
    pretrain(**parse(pretrain, words))
    return out


def read_test_clips(data: Manifest, frames: int, run: Path) -> torch.Tensor:
    """uint8 `S C T H W`: the middle clip of each test film."""
    net = load_encoder(run)
    clips = []
    for row in range(len(data)):
        clips.append(eval_clips(data.path(row), net.spec)[0])
    return torch.stack(clips)


@torch.inference_mode()
def test(run: Path, data: Manifest, clips: torch.Tensor, variant: str) -> float:
    """The share of test films that are named rightly."""
    net, space = load_encoder(run), load_joint(run)
    template = ("a video of {}.",) if variant == "templates" else BARE
    (names,) = word_classes(data.classes, template)
    texts, right = space.embed_texts(names), 0
    for start in range(0, len(clips), 50):
        some = net.normalise(clips[start : start + 50])
        vectors = space.read_clips(net(some, layers=space.layers or None))
        answers = space.compare(vectors, texts).argmax(1)
        right += int((answers == data.labels[start : start + 50]).sum())
    return right / len(clips)


def read_lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def run_all(options: argparse.Namespace) -> None:
    file = Path(options.out) / "parts.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    clips = None
    for seed in range(options.seeds) if options.seed is None else [options.seed]:
        for shots, variants in ((0, list(VARIANTS)), (2, FEW)):
            for variant in variants:
                done = {(line["variant"], line["shots"], line["seed"]) for line in read_lines(file)}
                if (variant, shots, seed) in done or options.only not in ("", variant):
                    continue
                began = cpu_seconds()
                run = train(variant, shots, seed, options)
                trained = cpu_seconds() - began
                config = parse(pretrain, ["--config", RECIPE, "--data.root", options.data_root])
                data = config["data"].split("test")
                if clips is None:
                    clips = read_test_clips(data, 8, run)
                line = {"variant": variant, "shots": shots, "seed": seed}
                line["top1"] = test(run, data, clips, variant)
                line["cpu_s"] = round(trained, 1)
                with file.open("a") as lines:
                    lines.write(json.dumps(line) + "\n")
                print(line, flush=True)


def print_table(lines: list[dict[str, Any]]) -> None:
    """Means over three seeds, and differences to the whole with 95 % intervals by Student's t."""
    print("| variant | top-1 | difference to whole (95 %) | two films a class |\n|---|---|---|---|")
    for variant in VARIANTS:
        cells = [variant]
        for shots in (0, 2):
            scores = find_scores(lines, variant, shots)
            whole = find_scores(lines, "whole", shots)
            if len(scores) < 3 or len(whole) < 3:
                cells += ["-"] * (2 if shots == 0 else 1)
                continue
            cells.append(f"{100 * sum(scores) / 3:.1f}")
            difference = [100 * (a - b) for a, b in zip(scores, whole, strict=True)]
            middle, half = describe(difference)
            text = f"{middle:+.1f} ({middle - half:+.1f} to {middle + half:+.1f})"
            if shots == 0:
                cells.append(text)
            else:
                cells[-1] += f", {text}"
        print(f"| {' | '.join(cells)} |")


def find_scores(lines: list[dict[str, Any]], variant: str, shots: int) -> list[float]:
    """In the order of the seeds."""
    scores = {}
    for line in lines:
        if (line["variant"], line["shots"]) == (variant, shots):
            scores[line["seed"]] = line["top1"]
    return [scores[seed] for seed in sorted(scores)]


def describe(differences: list[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval."""
    values = torch.tensor(differences, dtype=torch.float64)
    return values.mean().item(), T_95 * values.std().item() / math.sqrt(len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--data_root", default=".cache/ssvid")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=None, help="this one alone")
    parser.add_argument("--only", default="", help="this variant alone")
    parser.add_argument("--table", default="", help="OUT: print the table of its lines")
    options = parser.parse_args()
    if options.table:
        print_table(read_lines(Path(options.table) / "parts.jsonl"))
    else:
        torch.set_num_threads(1)
        run_all(options)


if __name__ == "__main__":
    main()
