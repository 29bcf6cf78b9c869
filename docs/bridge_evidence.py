"""What a bridge to a language model says of films of ours, beside what it could say without them.

    python docs/bridge_evidence.py OUT [--seeds 0 1 2]

A causal model of three layers learns the sentences of films of other seeds, and is frozen. An
encoder learns to find the sentence of a film (`clip`). Then a bridge is trained between the two,
and another between the model and the same encoder untrained. A line of OUT/rows.jsonl is one row
for one seed; rows that it has are not made again. The test films are in no training.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

from objectives.bridge import BridgeObjective
from objectives.clip import CLIP
from ssvid import create_encoder
from ssvid.bridge import Bridge, load_bridge
from ssvid.data import captioned_films as films
from ssvid.data.captioned_films import QUARTERS, Script
from ssvid.data.datasets.synthetic_captioned import synthetic_captioned
from ssvid.data.manifest import Manifest
from ssvid.data.narration.synthetic_narrator import COLOURED_SHAPES, COLOURS, SHAPES
from ssvid.data.sampling import eval_clips
from ssvid.engine import optim
from ssvid.engine.features import cpu_seconds
from ssvid.objective import Objective
from ssvid.randomness import permutation
from ssvid.shapes import ClipSpec, Row
from ssvid.text.language import Language, phrase_prompt
from ssvid.weights.encoders import save_encoder

WAYS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks")
FILMS: dict[str, Any] = {"train": 2000, "val": 60, "test": 300, "size": 32, "frames": 8}
FILMS |= {"motions": WAYS}
PARTS = {"colour": tuple(COLOURS), "shape": SHAPES, "place": QUARTERS, "motion": WAYS}
QUESTIONS = {"colour": "what colour is it?", "motion": "what does it do?"}
OTHER_SEED, FILMS_READ = 1000, 6000  # of the films that the language model reads of
LANGUAGE_STEPS, BATCH = 700, 32
VISION = {"dim": 96, "depth": 4, "heads": 3, "patch": 8, "frames": 8, "stride": 1, "size": 32}
TOWER = {"buckets": 512, "width": 32, "hidden": 64, "length": 24}
VISION_STEPS, BRIDGE_STEPS = 800, 1000
BRIDGE = {"queries": 16, "heads": 4, "length": 24, "augment": "none"}
ALONE, UNTRAINED, OURS = "language model alone", "untrained encoder", "ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    flags = parser.parse_args()
    torch.set_num_threads(1)
    flags.out.mkdir(parents=True, exist_ok=True)
    data = synthetic_captioned(str(flags.out / "films"), **FILMS)
    train, test = read_films(data, "train"), read_films(data, "test")
    language = str(flags.out / "language")
    if not Path(language, "config.json").exists():
        train_language(Path(language))
    for seed in flags.seeds:
        vision = flags.out / f"vision{seed}"
        if not (vision / "encoder.json").exists():
            train_vision(train, vision, seed)
        add_row(flags.out, ALONE, seed, lambda: score_alone(Language(language), test))
        for name, encoder in ((UNTRAINED, f"{vision}@random{seed}"), (OURS, str(vision))):
            run = flags.out / f"bridge_{name.replace(' ', '_')}{seed}"
            if not (run / "bridge.json").exists():
                train_bridge(train, encoder, language, run, seed)
            add_row(flags.out, name, seed, lambda run=run: score_bridge(load_bridge(run), test))
    print_table(flags.out)


class Films(NamedTuple):
    """A split of the data set in memory."""

    rows: list[Row]
    clips: Tensor  # uint8 S C T H W


def read_films(data: Manifest, split: str) -> Films:
    part = data.split(split)
    spec = ClipSpec(frames=VISION["frames"], stride=1, size=VISION["size"])
    clips = [eval_clips(part.path(i), spec)[0] for i in range(len(part))]
    return Films(part.rows, torch.stack(clips))


def train(objective: Objective, data: Films, steps: int, batch: int, lr: float, seed: int) -> None:
    """A short loop of the one in ssvid.engine: films are decoded once and kept in memory."""
    rates = objective.compute_rate_factors()
    optimizer = optim.make("adamw", objective, 1e-4, (0.9, 0.999), rates)
    objective.train()
    for step in range(steps):
        peak = optim.rate(step, steps, peak=lr, warmup=steps // 20, last=0.0)
        optim.set_rates(optimizer, peak, freeze=False)
        index = permutation(seed, step, len(data.rows))[:batch]
        clips = objective.encoder.normalise(data.clips[index])[:, None]  # B 1 C T H W
        texts = [list_texts(data.rows[i])[(step + i) % 3] for i in index.tolist()]
        if not isinstance(objective, BridgeObjective):
            texts = [data.rows[i].sentences[0][2] for i in index.tolist()]
        loss = objective({"clips": clips, "index": index, "sentences": [[t] for t in texts]})
        optimizer.zero_grad()
        loss.total.backward()
        optim.clip_norm(objective, 1.0)
        optimizer.step()
        objective.after_step((step + 1) / steps)
        if step % 100 == 99:
            print(f"step {step + 1}: {loss.total.item():.3f}", file=sys.stderr)


def list_texts(row: Row) -> list[str]:
    """The caption of a film, and a pair for each question."""
    texts = [row.sentences[0][2]]
    for part, question in QUESTIONS.items():
        texts.append(f"question: {question} answer: {dict(row.columns)[part]}")
    return texts


def train_vision(data: Films, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    net = create_encoder("vit", **VISION)
    settings = {"tower": "words", "options": TOWER, "equal_sentences": "positives"}
    train(CLIP(net, dim=64, **settings), data, VISION_STEPS, 64, 1e-3, seed)
    save_encoder(net, folder, "encoder", {})


def train_bridge(data: Films, vision: str, language: str, run: Path, seed: int) -> None:
    torch.manual_seed(seed)
    objective = BridgeObjective(None, vision=vision, language=language, **BRIDGE)
    train(objective, data, BRIDGE_STEPS, 32, 2e-3, seed)
    objective.save_assets(run)


def write_texts() -> list[list[str]]:
    """For each of many films that are never drawn: two sentences and a pair for each question.

    They stand in one text in any order, so that the model learns that what was read before may
    answer what comes. A model of single sentences had no use for anything before its first word.
    """
    forms, texts = films.list_forms(1, False), []
    for n, u in enumerate(films.draw_numbers(0, FILMS_READ, OTHER_SEED)):
        script: Script = films.write_script(u, COLOURED_SHAPES, (WAYS[n % len(WAYS)],))
        text = [f"{phrase_prompt(None)} {x}" for x in films.write_sentences(script, forms, 2)]
        text.append(f"{phrase_prompt(QUESTIONS['colour'])} {script.colour}")
        text.append(f"{phrase_prompt(QUESTIONS['motion'])} {script.motions[0]}")
        texts.append([text[i] for i in permutation(2, n, len(text)).tolist()])
    return texts


def train_language(folder: Path) -> None:
    """A GPT-2 of three layers, whose tokens are the words of these sentences."""
    texts, splitter = write_texts(), Whitespace()
    words: dict[str, int] = {"<end>": 0, "<unknown>": 1}
    for text in texts:
        for word, _ in splitter.pre_tokenize_str(" ".join(text)):
            words.setdefault(word, len(words))
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = splitter
    ends = {"bos_token": "<end>", "eos_token": "<end>", "pad_token": "<end>"}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unknown>", **ends
    )
    torch.manual_seed(0)
    sizes = {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 128}
    net = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=len(words), bos_token_id=0, eos_token_id=0, **sizes)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(LANGUAGE_STEPS):
        rows = permutation(0, step, len(texts))[:BATCH]
        ids, mask = pad([join_tokens(fast, texts[i]) for i in rows.tolist()])
        # As in the bridge, sentences stand at many places: vectors of a clip come before them.
        shift = int(permutation(1, step, 32)[0])
        positions = torch.arange(shift, shift + ids.shape[1]).expand(len(ids), -1)
        logits = net(ids, position_ids=positions).logits[:, :-1]
        losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * mask[:, 1:]).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"language model, step {step + 1}: {loss.item():.3f} a token", file=sys.stderr)
    fast.save_pretrained(folder)
    net.eval().save_pretrained(folder)


def join_tokens(tokenizer: Any, text: list[str]) -> list[int]:
    """Each sentence begins and ends as in the bridge."""
    ids = [0]
    for sentence in text:
        ids += [*tokenizer(sentence).input_ids, 0]
    return ids


def pad(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.arange(width) < torch.tensor(list(map(len, rows)))[:, None]


@torch.no_grad()
def score_alone(language: Language, data: Films) -> dict[str, float]:
    """The model without a clip: it says the same of every film."""
    words = language.read_sentences([row.sentences[0][2] for row in data.rows], 24)
    logits = language.net(words.ids).logits[:, :-1]
    losses = F.cross_entropy(logits.transpose(1, 2), words.ids[:, 1:], reduction="none")
    learnt = words.is_answer[:, 1:]
    token_nce = ((losses * learnt).sum(1) / learnt.sum(1)).mean().item()
    nothing = torch.zeros(1, 0, language.dim)
    captions = language.continue_prefix(nothing, phrase_prompt(None), 24) * len(data.rows)
    answers = {}
    for part, question in QUESTIONS.items():
        (answer,) = language.continue_prefix(nothing, phrase_prompt(question), 6)
        answers[part] = [answer] * len(data.rows)
    return {"token_nce": token_nce, **score_words(data.rows, captions, answers)}


@torch.no_grad()
def score_bridge(bridge: Bridge, data: Films) -> dict[str, float]:
    captions: list[str] = []
    answers: dict[str, list[str]] = {part: [] for part in QUESTIONS}
    losses: list[Tensor] = []
    for chunk in torch.arange(len(data.rows)).split(50):
        clip = bridge.encoder.normalise(data.clips[chunk])
        sentences = [data.rows[i].sentences[0][2] for i in chunk.tolist()]
        words = bridge.language.read_sentences(sentences, 24)
        losses.append(bridge.language.score_answers(bridge.read_clip(clip), words))
        captions += bridge.describe(clip, tokens=24)
        for part, question in QUESTIONS.items():
            answers[part] += bridge.describe(clip, question, 6)
    token_nce = torch.cat(losses).mean().item()
    return {"token_nce": token_nce, **score_words(data.rows, captions, answers)}


def score_words(
    rows: list[Row], captions: list[str], answers: dict[str, list[str]]
) -> dict[str, float]:
    """The share of captions with the right value of each part and no other, and of all parts; the
    share of answers that are exactly right.
    """
    counts = dict.fromkeys([*PARTS, "whole"], 0)
    right = {f"answer/{part}": 0 for part in QUESTIONS}
    for n, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        truth, whole = dict(row.columns), True
        for part, values in PARTS.items():
            is_right = {value for value in values if value in caption} == {truth[part]}
            counts[part] += is_right
            whole = whole and is_right
        counts["whole"] += whole
        for part in QUESTIONS:
            right[f"answer/{part}"] += answers[part][n] == truth[part]
    return {name: count / len(rows) for name, count in {**counts, **right}.items()}


def add_row(out: Path, name: str, seed: int, score: Any) -> None:
    file, key = out / "rows.jsonl", {"row": name, "seed": seed}
    for line in file.read_text().splitlines() if file.exists() else []:
        if key.items() <= json.loads(line).items():
            return
    row = {**key, **{part: round(value, 4) for part, value in score().items()}}
    with file.open("a") as stream:
        stream.write(json.dumps({**row, "cpu_s": round(cpu_seconds())}) + "\n")


def print_table(out: Path) -> None:
    """A line for each row: the mean over seeds."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    columns = ["token_nce", *PARTS, "whole", *(f"answer/{part}" for part in QUESTIONS)]
    print("| row | seeds | " + " | ".join(columns) + " |")
    for name in (ALONE, UNTRAINED, OURS):
        mine = [row for row in rows if row["row"] == name]
        means = [f"{sum(row[c] for row in mine) / len(mine):.3f}" for c in columns if mine]
        print(f"| {name} | {len(mine)} | " + " | ".join(means) + " |")


if __name__ == "__main__":
    main()
