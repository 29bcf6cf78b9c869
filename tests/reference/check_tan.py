"""TAN: both branches, the text tower, the losses of both stages with every pseudo-label, and
HTM-Align.

In float64, so that what differs is the published side's own rounding; masks exactly.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.metrics.htm_align import evaluate
from objectives.tan import pseudo_labels
from objectives.tan.aligner import STAGE, Aligner, Branches, normalise
from objectives.tan.losses import Logits, own_window_logits, two_way_nce
from objectives.tan.objective import TAN, Narration, TeacherLogits
from ssvid.data.datasets.htm_align import Spoken, load_annotation
from ssvid.nn.timeline import Aligned
from ssvid.weights.tan import LAYOUTS
from tests.reference.cases import Case, assert_close
from tests.reference.rule import tagged

Arrays = dict[str, Tensor]
LAYOUT = next(layout for layout in LAYOUTS if layout.name == "tan")
STORED = ("inputs", "outputs", "align_inputs", "align_outputs")
WITHOUT = (
    "noabspos"  # the type of agreement is that of the paper, and places in the video are not known
)
SHARE = 0.5  # of the sentences that a thresholded loss learns from, by the README
PERT = 64  # seconds of a stub's window that are perturbed


class Told(NamedTuple):
    """A case's files."""

    config: dict[str, Any]
    keys: dict[str, Any]
    tag: str
    arrays: dict[str, Arrays]  # of each .npz


def recognises(case: Case) -> bool:
    file = case.path / "inputs.npz"
    return (
        case.path.is_dir()
        and file.exists()
        and {"video", "text_embed", "pl_logits_joint"} <= np.load(file).keys()
    )


def check(case: Case) -> None:
    config, keys, tag = (read(case, name) for name in ("config", "keys", "case"))
    arrays = {name: arrays_of(case.path / f"{name}.npz") for name in STORED}
    told = Told(config, keys, tag["tag"], arrays)
    state = {key: tagged(told.tag, key, what["shape"]) for key, what in told.keys.items()}
    words = read(case, "tokenizer_inputs")
    found = {name for name in model_check(told, state)}
    found |= set(text_check(told, state, words))
    found |= set(loss_check(told, state, read(case, "grad_norms_loss_init")))
    for name in sorted(
        {key.partition(".")[0] for key in arrays["outputs"] if key.startswith("cotrain_")}
    ):
        found |= set(cotrain_check(told, name))
    assert arrays["outputs"].keys() == found, (
        f"not compared: {sorted(arrays['outputs'].keys() ^ found)}"
    )
    assert arrays["align_outputs"].keys() == set(
        align_check(told, load_annotation(case.path / "htm_align_annotation.json"))
    )


def read(case: Case, name: str) -> Any:
    return json.loads((case.path / f"{name}.json").read_text())


def arrays_of(file: Path) -> Arrays:
    return {key: torch.from_numpy(np.asarray(x)) for key, x in np.load(file).items()}


def built(state: Arrays, **change: Any) -> TAN:
    """The objective that the tensors are of, filled with them; written back they are the same, in
    the same order.
    """
    ours = LAYOUT.to_ours(state)
    settings = LAYOUT.describe(ours).settings
    options = {
        **settings.pop("options", {}),
        "buckets": len(ours["aligner.tower.table.weight"]) - 1,
        "trained": False,
    }
    net = TAN(None, **{**settings, "options": options, "random_start": False, **change})
    if "positions" in change:  # of another kind than the case's
        ours["aligner.positions"] = net.aligner.positions.detach()
    net.load_state_dict(ours)
    again = LAYOUT.to_theirs(net.state_dict())
    assert list(again) == list(state)
    assert "positions" in change or all(torch.equal(again[key], x) for key, x in state.items())
    return net.double().eval()


def all_pairs(video: Tensor, text: Tensor) -> Tensor:
    """Cosines as published: window, stage, second, window of the sentence, sentence."""
    stages = text if text.ndim == 4 else text[:, None].expand(-1, video.shape[1], -1, -1)
    return torch.einsum("astd,bsnd->astbn", video, stages)


def seen_by(
    aligner: Aligner, told: Told, masked: bool = True, interpolate_from: int | None = None
) -> Branches:
    given = told.arrays["inputs"]
    masks = [given[name] & masked for name in ("video_padding_mask", "text_padding_mask")]
    video, text = given["video"].double(), given["text_embed"].double()
    return aligner(video, masks[0], text, masks[1], interpolate_from=interpolate_from)


def model_check(told: Told, state: Arrays) -> Iterator[str]:
    found: Arrays = {}
    with torch.no_grad():
        net = built(state)
        raw = seen_by(net.aligner, told)
        seen = normalise(raw)
        found["model.logits_dual"] = all_pairs(seen.video, seen.text)
        found["model.logits_joint"] = all_pairs(seen.joint_video, seen.joint_text)
        found["model.dual_feature_video"], found["model.dual_feature_text"] = seen.video, seen.text
        found["model.dual_logits_alignability"] = net.aligner.predict_alignability(raw.text)[
            ..., None
        ]
        found["model.joint_logits_alignability"] = net.aligner.predict_alignability(raw.joint_text)[
            ..., None
        ]
        for name, rows in stretches(told):
            raw = seen_by(net.aligner, told, masked=False, interpolate_from=rows)
            seen = normalise(raw)
            found[name.format("joint")] = torch.einsum(
                "bstd,bsnd->bstn", seen.joint_video, seen.joint_text
            )
            found[name.format("dual")] = torch.einsum("bstd,bnd->bstn", seen.video, seen.text)
            if rows is None:
                found["model.alignability_joint_nopad"] = net.aligner.predict_alignability(
                    raw.joint_text
                )[..., None]
        placed = normalise(seen_by(built(state, text_positions=True).aligner, told))
        found["model_textpos.logits_joint"] = all_pairs(placed.joint_video, placed.joint_text)
        waves = built(state, positions="sine")
        seen = normalise(seen_by(waves.aligner, told))
        found["model_sine.logits_dual"] = all_pairs(seen.video, seen.text)
        table = waves.aligner.positions
        found["model_sine.pos_first3_last1_dims0_16"] = torch.cat([table[:3], table[-1:]])[:, :16]
    yield from compared(found, told.arrays["outputs"], "tan")


def stretches(told: Told) -> Iterator[tuple[str, int | None]]:
    """Names of similarities without masks, and from how many rows their positions are stretched."""
    yield "model.get_text_visual_sim_{}", None
    begin = "model.sim_joint_interpolate_from_"
    for rows in (
        key.removeprefix(begin) for key in told.arrays["outputs"] if key.startswith(begin)
    ):
        yield f"model.sim_{{}}_interpolate_from_{rows}", int(rows)


def text_check(told: Told, state: Arrays, words: dict[str, Any]) -> Iterator[str]:
    """Words of the list have its first rows; nothing is said of the others."""
    known = words["vocab_list_in_order"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "words.txt"
        rest = len(state["bert.word_embd.weight"]) - 1 - len(known)
        file.write_text("\n".join([*known, *(f"_{i}_" for i in range(rest))]))
        net = built(state, words=str(file), options={"trained": False})
    tower, said = net.aligner.tower, words["sentences"]
    tokens = tower.tokens(said)
    found = {"tokenizer.input_ids": tokens, "tokenizer.attention_mask": tokens != 0}
    yield from compared(found, told.arrays["outputs"], "exact")
    with torch.no_grad():
        pooled = {"text.pooler_output": tower(said)}
        tower.masks_padding = False
        pooled["text.pooler_output_nomask"] = tower(said)
    yield from compared(pooled, told.arrays["outputs"], "tan")


def said_of(told: Told, abs_places: bool = True) -> Narration:
    given, config = told.arrays["inputs"], told.config
    text_padding_mask = given["text_padding_mask"]
    spans = torch.zeros(*text_padding_mask.shape, 2, dtype=torch.float64)
    for b, (start, end) in enumerate(zip(config["start"], config["end"], strict=True)):
        spans[b, : len(start)] = torch.tensor([start, end], dtype=torch.float64).T
    own = pseudo_labels.mark_spans(spans, text_padding_mask, given["video"].shape[1])
    places = given["pl_abs_text_pos"].double() if abs_places else torch.full_like(spans, 0.5)
    return Narration(own, places, text_padding_mask, given["video_padding_mask"])


def flattened(cosines: Tensor, text_padding_mask: Tensor) -> Tensor:
    """B E T B N -> E R S."""
    return cosines.transpose(0, 1).flatten(1, 2)[:, :, ~text_padding_mask]


def loss_check(told: Told, state: Arrays, norms: dict[str, float]) -> Iterator[str]:
    out, said = told.arrays["outputs"], said_of(told)
    found: Arrays = {"timestamp_mask_bnt": said.targets.mT}
    yield from compared(found, out, "exact")
    net = built(state)
    net.aligner.head = None  # the published loss had no such part here
    video = told.arrays["inputs"]["video"].double().requires_grad_()
    given = {**told.arrays["inputs"], "video": video}
    seen = normalise(seen_by(net.aligner, told._replace(arrays={**told.arrays, "inputs": given})))
    net.loss(net.compute_logits(seen, said.text_padding_mask), said).total.backward()
    found = {
        "loss_init.grad_video_norm": video.grad.norm(),
        "loss_init.grad_video_0_0_first8": video.grad[0, 0, :8],
    }
    yield from compared(found, out, "tan_gradient")
    ours = {row.theirs: row.ours for row in LAYOUT.list_rows_of_theirs(state)}
    own = dict(net.named_parameters())
    moved = {key for key, name in ours.items() if name in own and own[name].grad is not None}
    assert moved == norms.keys()
    for key, value in norms.items():
        assert_close(
            key,
            own[ours[key]].grad.norm(),
            torch.tensor(value, dtype=torch.float64),
            "tan_gradient",
        )
    for prefix, share in (("loss_init", 0.0), (f"loss_init_th{SHARE}", SHARE)):
        net.threshold = share
        cosines = {name: out[f"model.{name}"].double() for name in ("logits_dual", "logits_joint")}
        yield from one_loss(net, prefix, told, said, cosines)


def one_loss(
    net: TAN, prefix: str, told: Told, said: Narration, cosines: Arrays, **more: Any
) -> Iterator[str]:
    """Losses, gradients at the cosines and what was chosen, of given cosines."""
    out, spoken = told.arrays["outputs"], ~said.text_padding_mask
    cosines = {name: x.clone().requires_grad_() for name, x in cosines.items()}
    logits = Logits(
        *(flattened(x, said.text_padding_mask) / net.temperature for x in cosines.values())
    )
    head = more.get("head")
    loss = net.loss(logits, said, head, more.get("taught"))
    parts = loss.parts
    found = {"loss": loss.total, "loss-dual": parts["dual"], "loss-joint": parts["joint"]}
    if net.threshold:
        plain = [two_way_nce(x, more.get("target", said.targets), spoken, spoken) for x in logits]
        found |= {
            "loss-dual-all": plain[0],
            "loss-joint-all": plain[1],
            "loss-total": (plain[0] + plain[1]) / 2,
        }
    if head is not None:
        found |= {"loss-joint-bce": parts["bce"], "alignability_top1": parts["alignable"]}
    yield from compared({f"{prefix}.{key}": x.detach() for key, x in found.items()}, out, "tan")
    loss.total.backward()
    grads = {name: x.grad.norm() for name, x in cosines.items()}
    if head is not None:
        grads["joint_logits_alignability"] = head.grad.norm()
    yield from compared(
        {f"{prefix}.grad_norm.{name}": x for name, x in grads.items()}, out, "tan_gradient"
    )
    if net.threshold or head is not None:
        heights = [
            own_window_logits(x[-1:], spoken)[:, 0].amax(1) for x in (logits.joint, logits.dual)
        ]
        chosen = pseudo_labels.label_alignable(
            *heights, said.span_fractions[spoken], net.threshold, net.trim
        )
        yield from compared({f"{prefix}._t_th_metric": chosen.metric}, out, "tan")
        masks = {"_t_th_mask": chosen.selected}
        if head is not None:
            masks["_t_align"] = torch.where(chosen.label_valid, chosen.label.float(), 2.0)
        yield from compared({f"{prefix}.{key}": x for key, x in masks.items()}, out, "exact")


def cotrain_check(told: Told, name: str) -> Iterator[str]:
    """The type of agreement is in the name; where what lay below a threshold is told, there was
    one.
    """
    given, out, how = told.arrays["inputs"], told.arrays["outputs"], name.removeprefix("cotrain_")
    said = said_of(told, abs_places=how != WITHOUT)
    share = SHARE if f"{name}.loss-total" in out else 0.0
    sizes = {"features": 1, "dim": 8, "heads": 1, "video_layers": 1, "joint_layers": 1 + STAGE}
    how = "keep" if how == WITHOUT else how
    net = TAN(
        None, **sizes, cotrain=how, threshold=share, options=TAN.tiny_kwargs["options"]
    ).double()
    taught, picked = {}, {}
    for which in ("joint", "dual"):
        cosines = given[f"pl_ema_logits_{which}"][:, -1].double()
        taught[which] = cosines.diagonal(dim1=0, dim2=2).permute(2, 0, 1) / net.temperature  # B T N
        picked[which] = pseudo_labels.pick(
            taught[which],
            said.targets,
            said.video_padding_mask,
            said.text_padding_mask,
            net.temperature,
        )
    agreed = pseudo_labels.combine(
        picked["joint"], picked["dual"], said.targets, said.text_padding_mask, how
    )
    exact = {"dbg.confidence_iou": agreed.agree, "dbg.confidence_mask": agreed.sure}
    exact |= {
        "dbg.agreement": with_itself(agreed.targets),
        "dbg.binary_tgt": with_itself(said.targets),
    }
    exact |= {f"dbg.{which}_self_tgt": one.box for which, one in picked.items()}
    close = {
        "dbg.iou": agreed.iou,
        "confidence-ratio": agreed.sure[~said.text_padding_mask].double().mean(),
    }
    close["iou-threshold"] = torch.tensor(pseudo_labels.AGREE)
    for which, one in picked.items():
        close |= {f"dbg.{which}_prob": one.prob, f"dbg.{which}_max_prob": one.score}
    for found, kind in ((exact, "exact"), (close, "tan")):
        there = {f"{name}.{key}": x for key, x in found.items() if f"{name}.{key}" in out}
        yield from compared(there, out, kind)
    head = given["pl_joint_logits_alignability"][:, STAGE, :, 0].double().requires_grad_()
    cosines = {which: given[f"pl_{which}"].double() for which in ("logits_dual", "logits_joint")}
    more = {"head": head, "taught": TeacherLogits(**taught), "target": agreed.targets}
    yield from one_loss(net, name, told, said, cosines, **more)


def with_itself(own: Tensor) -> Tensor:
    """B T N -> B T B N."""
    return torch.einsum("atn,ab->atbn", own.double(), torch.eye(len(own), dtype=torch.float64))


def align_check(told: Told, annotation: dict[str, list[Spoken]]) -> Iterator[str]:
    """The metric, with the README's stub for a model."""
    given, out = told.arrays["align_inputs"], told.arrays["align_outputs"]
    lengths = {video: given[f"{video}.base"].shape[1] for video in annotation}

    def stub(video: str, start: int, length: int, rows: list[int]) -> Aligned:
        cut = slice(start, start + length)
        noise = given[f"{video}.pert"][rows, :length].double()
        noise = torch.nn.functional.pad(noise, (0, max(0, length - PERT)))
        joint = given[f"{video}.base"][rows, cut].double() + 0.3 * noise
        dual = given[f"{video}.dual"][rows, cut].double() - 0.2 * noise
        alignable = given[f"{video}.al"][:, rows].double() * (1 + 0.1 * np.cos(start / 16))
        return Aligned(joint[None], dual[None], alignable)

    for head in ("head", "nohead"):
        for method in ("overlap-seq", "global"):
            got = evaluate(annotation, lengths, stub, method=method, head=head == "head")
            name = f"{head}.{method}"
            metrics = {f"{name}.Recall": got["recall"], f"{name}.AUC": got["auc"]}
            yield from compared(
                {k: torch.tensor(x, dtype=torch.float64) for k, x in metrics.items()}, out, "metric"
            )
            tables = {f"{name}.sim.{video}": x for video, x in got["similarity"].items()}
            tables |= {
                f"{name}.alignability.{video}": x for video, x in got["alignability"].items()
            }
            yield from compared({key: x for key, x in tables.items() if key in out}, out, "tan")
            calls = [
                [i, *call]
                for i, video in enumerate(sorted(annotation))
                for call in got["calls"][video]
            ]
            key = f"{method}.calls_video_start_len_firstsent_lastsent"
            yield from compared({key: torch.tensor(calls)} if key in out else {}, out, "exact")


def compared(found: Arrays, out: Arrays, kind: str) -> Iterator[str]:
    for name, ours in found.items():
        assert_close(name, ours.detach().double(), out[name].double(), kind)
        yield name
