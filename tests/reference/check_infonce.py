"""InfoNCE and UberNCE of CoCLR: the logic on linear encoders, and a whole step on S3D.

The published step moves the encoder of keys before it uses it; ours when a step is done, which is
the same in a run. So here it is moved first.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.infonce import InfoNCE
from ssvid import create_encoder
from ssvid.encoder import Encoder
from ssvid.nn import moco
from ssvid.shapes import Batch, ClipSpec, Features, Grid
from ssvid.weights.coclr import LAYOUTS
from tests.reference.cases import Case, assert_close, in_float64
from tests.reference.rule import rule, standard_normal

UNIT = {
    "lin_encoder_q",
    "lin_encoder_k",
    "queue",
    "queue_ptr",
    "block",
    "logits",
    "loss",
    "grad_lin_encoder_q",
}
UNIT |= {"lin_encoder_k_after", "queue_after", "queue_ptr_after"}
OWN, LABELLED = {"labels"}, {"queue_label", "k_label", "mask", "acc", "queue_label_after"}
WHOLE = {"q_raw", "logits", "labels", "loss", "queue_after", "queue_ptr_after"}
HEAD = {"2": "0", "4": "2"}  # place in the published Sequential -> in ours


def recognises(case: Case) -> bool:
    return case.arrays.keys() in (UNIT | OWN, UNIT | LABELLED, WHOLE)


def check(case: Case) -> None:
    (check_whole if case.arrays.keys() == WHOLE else check_unit)(case)


class Linear(Encoder):
    """out = w x, of clips that are one pixel."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.dim, self.spec = len(w), ClipSpec(frames=1, stride=1, size=1)
        self.w = nn.Parameter(w.clone())

    def grid(self, T: int, H: int, W: int) -> Grid:
        return Grid(1, 1, 1)

    def forward(self, clip: Tensor, visible: None = None, layers: None = None) -> Features:
        out = clip.flatten(1) @ self.w.T
        return Features(out[:, None], out, Grid(1, 1, 1))


def logits(net: InfoNCE, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the head gives before it is normalised, the logits, and which are positives."""
    with torch.no_grad():
        query = net.head(net.encoder(batch["clips"][:, 0]).pooled)
        key = moco.embed_keys(net.key_encoder, net.key_head, batch["clips"][:, 1], 0, 0)
        return (
            query,
            moco.compute_logits(F.normalize(query, dim=1), key, net.queue, net.temperature),
            net.find_positives(batch),
        )


def check_unit(case: Case) -> None:
    arrays, meta = in_float64(case.arrays), case.meta
    labelled = "queue_label" in arrays
    D, K = arrays["queue"].shape
    shape = {"dim": D, "queue": K, "temperature": meta["T"], "momentum": meta["m"]}
    net = InfoNCE(
        Linear(arrays["lin_encoder_q"]), positives="label" if labelled else "own", **shape
    )
    net.head, net.key_head = (
        nn.Linear(D, D, bias=False) for _ in range(2)
    )  # there is none: the unit matrix
    for head in (net.head, net.key_head):
        nn.init.eye_(head.weight)
    net.key_encoder.w.data = arrays["lin_encoder_k"].clone()  # type: ignore[attr-defined]
    net.double()
    net.queue.keys.copy_(arrays["queue"].T)
    net.queue.pushed.copy_(arrays["queue_ptr"][0])
    batch: Batch = {
        "clips": arrays["block"],
        "label": torch.full((len(arrays["block"]),), -1),
        "seed": 0,
    }
    if labelled:
        net.queue.get_buffer("label").copy_(arrays["queue_label"])
        batch["label"] = arrays["k_label"]
    moco.update_momentum_copies(
        (net.encoder, net.head), (net.key_encoder, net.key_head), net.momentum
    )
    assert_close(
        "lin_encoder_k_after", net.key_encoder.w.detach(), arrays["lin_encoder_k_after"], "unit"
    )
    _, ours, right = logits(net, batch)
    assert_close("logits", ours, arrays["logits"], "unit")
    if labelled:
        assert_close("mask", right, arrays["mask"], "exact")
    else:
        assert_close("labels", right.int().argmax(1), arrays["labels"], "exact")
        assert bool((right.sum(1) == 1).all())
    loss = net(batch)
    assert_close("loss", loss.total.detach()[None], arrays["loss"], "unit")
    if labelled:
        assert_close(
            "acc", torch.stack([loss.parts["top1"], loss.parts["top5"]]), arrays["acc"], "unit"
        )
    loss.total.backward()
    assert_close("grad_lin_encoder_q", net.encoder.w.grad, arrays["grad_lin_encoder_q"], "unit")  # type: ignore
    net.after_step(0.0)
    assert_close("queue_after", net.queue.keys.T, arrays["queue_after"], "unit")
    assert_close("queue_ptr_after", net.queue.pushed[None] % K, arrays["queue_ptr_after"], "exact")
    if labelled:
        assert_close(
            "queue_label_after", net.queue.get_buffer("label"), arrays["queue_label_after"], "exact"
        )


def state(seed: int, keys: list, which: str) -> dict[str, Tensor]:
    """One of the two encoders with its head, in our names without `encoder.` and aliases."""
    prefix, net, head = f"{which}.0.", {}, {}
    for key, shape, *_ in keys:
        if key.startswith(f"{prefix}block") or not key.startswith(f"{which}."):
            continue
        if key.startswith(prefix):
            net[key.removeprefix(prefix)] = rule(seed, key, shape)
        else:
            place, leaf = key.removeprefix(f"{which}.").split(".")
            head[f"head.{HEAD[place]}.{leaf}"] = rule(seed, key, shape).flatten(
                1 if len(shape) > 1 else 0
            )
    return {**LAYOUTS[0].to_ours(net), **head}


def check_whole(case: Case) -> None:
    arrays, meta, cfg = case.arrays, case.meta, case.meta["cfg"]
    keys = meta["weights"]["keys"]
    encoder = create_encoder("s3d", frames=cfg["T"], size=cfg["S"])
    net = InfoNCE(encoder, dim=meta["dim"], queue=cfg["K"]).double()
    ours, theirs = (state(meta["seed"], keys, which) for which in ("encoder_q", "encoder_k"))
    named = {f"key_{name}": value for name, value in theirs.items()}
    lacking = net.load_state_dict({**ours, **named}, strict=False)
    assert not lacking.unexpected_keys and {key.split(".")[0] for key in lacking.missing_keys} == {
        "queue"
    }
    shapes = {key: shape for key, shape, *_ in keys}
    queue = rule(meta["seed"], "queue", shapes["queue"]).double()
    net.queue.keys.copy_((queue / queue.norm(dim=0)).T)
    clips = standard_normal(
        meta["seed"], f"input:{meta['input_name']}", meta["input_shape"]
    ).double()
    batch: Batch = {"clips": clips, "label": torch.full((len(clips),), -1), "seed": 0}
    moco.update_momentum_copies(
        (net.encoder, net.head), (net.key_encoder, net.key_head), net.momentum
    )
    norms = {f"key_{name}": p for name, p in [*named_parts(net)]}
    for key, value in meta["encoder_k_norm_after"].items():
        assert_close(
            key, norms[f"key_{our_name(key)}"].norm().detach().float(), torch.tensor(value), "norm"
        )
    check_logits(case, copy.deepcopy(net), batch)  # batch norm moves on with each pass
    loss = net(batch)
    assert_close(
        "loss",
        loss.total.detach(),
        torch.tensor(meta["loss_f64"], dtype=torch.float64),
        "infonce_loss",
    )
    assert_close("loss", loss.total.detach().float()[None], arrays["loss"], "infonce_loss")
    loss.total.backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    for key, value in meta["grad_norm_f64"].items():
        assert_close(
            key, grads[our_name(key)].norm(), torch.tensor(value, dtype=torch.float64), "gradient"
        )
    net.after_step(0.0)
    assert_close("queue_after", net.queue.keys.T.float(), arrays["queue_after"], "infonce_key")
    assert_close(
        "queue_ptr_after", net.queue.pushed[None] % cfg["K"], arrays["queue_ptr_after"], "exact"
    )


def check_logits(case: Case, net: InfoNCE, batch: Batch) -> None:
    query, found, right = logits(net, batch)
    assert_close("q_raw", query.float(), case.arrays["q_raw"], "infonce_logits")
    assert_close("logits", found.float(), case.arrays["logits"], "infonce_logits")
    assert_close("labels", right.int().argmax(1), case.arrays["labels"], "exact")


def named_parts(net: InfoNCE):
    yield from ((f"encoder.{name}", p) for name, p in net.key_encoder.named_parameters())
    yield from ((f"head.{name}", p) for name, p in net.key_head.named_parameters())


def our_name(key: str) -> str:
    """encoder_q.0.Conv_1a.conv1.weight -> ours; encoder_q.2.weight -> head.0.weight."""
    _, place, rest = key.split(".", 2)
    if place != "0":
        return f"head.{HEAD[place]}.{rest}"
    rows = LAYOUTS[0].list_rows_of_theirs([rest])
    return next(row.ours for row in rows if row.theirs == rest)
