"""CoCLR: mining, the masks and the loss on linear encoders, and a whole step on S3D.

As in check_infonce, the encoder of keys is moved first; and a draw decides here whether a step
drops its own keys, so both losses are compared by asking for one and for the other. Sources are
numbers there and names here.
"""

import copy

import torch
from torch import Tensor, nn

from objectives.coclr import CoCLR, nce
from ssvid import create_encoder
from ssvid.nn import moco
from ssvid.nn.sources import number_sources
from ssvid.shapes import Batch
from tests.reference.cases import Case, assert_close, in_float64
from tests.reference.check_infonce import Linear, named_parts, our_name, state
from tests.reference.rule import rule, standard_normal

AFTER = {"queue_after", "queue_ptr_after", "queue_second_after", "queue_vname_after"}
BOTH = {"logits", "mask", "loss_all", "loss_self_dropped", "queue_vname", "k_vsource", *AFTER}
UNIT = {
    *BOTH,
    "lin_encoder_q",
    "lin_encoder_k",
    "lin_sampler",
    "queue",
    "queue_ptr",
    "queue_second",
    "queue_label",
}
UNIT |= {
    "block1",
    "block2",
    "mask_self_dropped",
    "acc",
    "queue_label_after",
    "grad_lin_encoder_q",
    "lin_encoder_k_after",
}
WHOLE = {*BOTH, "q_raw", "kf_raw"}
UNCHECKED = {
    "queue_label_after": "a flag of each filled place; ours counts keys, which is compared"
}
STREAMS = ("rgb", "flow")  # axis 1 of a block


def recognises(case: Case) -> bool:
    return case.arrays.keys() in (UNIT, WHOLE)


def check(case: Case) -> None:
    (check_whole if case.arrays.keys() == WHOLE else check_unit)(case)


def named(sources: Tensor) -> list[str]:
    return [f"source {number}" for number in sources.tolist()]


def ours(sources: Tensor) -> Tensor:
    """Numbers of theirs -> of ours; -1 stays."""
    return torch.where(sources < 0, sources, number_sources(named(sources), sources.device))


def fill(net: CoCLR, queue: Tensor, second: Tensor, pushed: Tensor, sources: Tensor) -> None:
    for part, keys in ((net.queue, queue), (net.second, second)):
        part.keys.copy_(keys.T)
        part.pushed.copy_(pushed)
    net.queue.get_buffer("source").copy_(ours(sources))


def batch_of(block1: Tensor, block2: Tensor, own: int, sources: Tensor) -> Batch:
    clips = torch.stack([block1[:, own], block2[:, own], block2[:, 1 - own]], 1)
    return {"clips": clips, "video_id": named(sources), "seed": 0}


def seen(net: CoCLR, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and which are positives, as forward makes them."""
    clips = batch["clips"]
    with torch.no_grad():
        query = moco.embed_clips(net.encoder, net.head, clips[:, 0])
        key = moco.embed_keys(net.key_encoder, net.key_head, clips[:, 1], 0, 0)
        right = net.find_positives(
            number_sources(batch["video_id"], clips.device), net.embed_second_stream(clips[:, 2])
        )
        return moco.compute_logits(query, key, net.queue, net.temperature), right


def unit_net(arrays: dict[str, Tensor], meta: dict) -> CoCLR:
    D, K = arrays["queue"].shape
    shape = {
        "dim": D,
        "queue": K,
        "temperature": meta["T"],
        "momentum": meta["m"],
        "topk": meta["topk"],
    }
    encoder = Linear(arrays["lin_encoder_q"])
    encoder.name, encoder.kwargs = f"{Linear.__module__}:Linear", {"w": encoder.w.detach()}
    net = CoCLR(encoder, sampler="random", **shape)
    net.key_encoder, net.sampler = Linear(arrays["lin_encoder_k"]), Linear(arrays["lin_sampler"])
    for name in ("head", "key_head", "sampler_head"):  # there is none: the unit matrix
        setattr(net, name, nn.Linear(D, D, bias=False))
        nn.init.eye_(getattr(net, name).weight)
    net.double()
    full = bool((arrays["queue_label"] >= 0).all())
    pushed = arrays["queue_ptr"][0] + (K if full else 0)
    fill(net, arrays["queue"], arrays["queue_second"], pushed, arrays["queue_vname"])
    return net


def check_unit(case: Case) -> None:
    arrays, meta = in_float64(case.arrays), case.meta
    fits = []
    for own in range(len(STREAMS)):  # which stream is trained no field tells: the logits do
        net = unit_net(arrays, meta)
        moco.update_momentum_copies(
            (net.encoder, net.head), (net.key_encoder, net.key_head), net.momentum
        )
        batch = batch_of(arrays["block1"], arrays["block2"], own, arrays["k_vsource"])
        logits, right = seen(net, batch)
        if torch.allclose(logits, arrays["logits"], atol=1e-3):
            fits.append((net, batch, logits, right))
    assert len(fits) == 1, f"{len(fits)} streams give these logits"
    net, batch, logits, right = fits[0]
    assert_close(
        "lin_encoder_k_after", net.key_encoder.w.detach(), arrays["lin_encoder_k_after"], "unit"
    )
    assert_close("logits", logits, arrays["logits"], "unit")
    assert_close("mask", right, arrays["mask"], "exact")
    assert_close(
        "mask_self_dropped", net.without_own_key(right), arrays["mask_self_dropped"], "exact"
    )
    net.self_drop = 0.0
    every = copy.deepcopy(net)(batch)
    assert_close("loss_all", every.total.detach()[None], arrays["loss_all"], "unit")
    assert_close(
        "acc", torch.stack([every.parts["top1"], every.parts["top5"]]), arrays["acc"], "unit"
    )
    net.self_drop = 1.0
    loss = net(batch)
    assert_close(
        "loss_self_dropped", loss.total.detach()[None], arrays["loss_self_dropped"], "unit"
    )
    assert loss.skip == bool((arrays["queue_label"] < 0).any())
    loss.total.backward()
    assert_close("grad_lin_encoder_q", net.encoder.w.grad, arrays["grad_lin_encoder_q"], "unit")
    check_after(net, arrays, "unit")
    assert UNCHECKED.keys() < arrays.keys()


def check_after(net: CoCLR, arrays: dict[str, Tensor], kind: str) -> None:
    net.after_step(0.0)
    assert_close("queue_after", net.queue.keys.T.float(), arrays["queue_after"], kind)
    assert_close(
        "queue_second_after", net.second.keys.T.float(), arrays["queue_second_after"], kind
    )
    assert_close(
        "queue_vname_after",
        net.queue.get_buffer("source"),
        ours(arrays["queue_vname_after"]),
        "exact",
    )
    assert_close(
        "queue_ptr_after",
        net.queue.pushed[None] % len(net.queue.keys),
        arrays["queue_ptr_after"],
        "exact",
    )


def check_whole(case: Case) -> None:
    arrays, meta, cfg = case.arrays, case.meta, case.meta["cfg"]
    keys, seed = meta["weights"]["keys"], meta["seed"]
    encoder = create_encoder("s3d", frames=cfg["T"], size=cfg["S"])
    net = CoCLR(
        encoder, sampler="random", dim=meta["dim"], queue=cfg["K"], topk=cfg["topk"]
    ).double()
    parts = {"encoder_q": "", "encoder_k": "key_", "sampler": "sampler."}
    found: dict[str, Tensor] = {}
    for theirs, prefix in parts.items():
        for name, value in state(seed, keys, theirs).items():
            if prefix == "sampler.":
                name = (
                    name.replace("encoder.", "sampler.", 1)
                    if name.startswith("encoder.")
                    else f"sampler_{name}"
                )
            else:
                name = f"{prefix}{name}"
            found[name] = value
    lacking = net.load_state_dict(found, strict=False)
    assert not lacking.unexpected_keys and {k.split(".")[0] for k in lacking.missing_keys} == {
        "queue",
        "second",
    }
    shapes = {key: shape for key, shape, *_ in keys}
    queue, second = (rule(seed, name, shapes[name]).double() for name in ("queue", "queue_second"))
    queue, second = queue / queue.norm(dim=0), second / second.norm(dim=0)
    fill(net, queue, second, torch.tensor(cfg["K"]), arrays["queue_vname"])
    blocks = [
        standard_normal(seed, f"input:{name}", shape).double()
        for name, shape in meta["inputs"].items()
    ]
    batch = batch_of(blocks[0], blocks[1], STREAMS.index("rgb"), arrays["k_vsource"])
    moco.update_momentum_copies(
        (net.encoder, net.head), (net.key_encoder, net.key_head), net.momentum
    )
    norms = {f"key_{name}": p for name, p in named_parts(net)}
    for key, value in meta["encoder_k_norm_after"].items():
        assert_close(
            key, norms[f"key_{our_name(key)}"].norm().detach().float(), torch.tensor(value), "norm"
        )
    check_logits(case, copy.deepcopy(net), batch)  # batch norm moves on with each pass
    net.self_drop = 1.0
    loss = net(batch)
    assert not loss.skip
    assert_close(
        "loss", loss.total.detach().float()[None], arrays["loss_self_dropped"], "infonce_loss"
    )
    loss.total.backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    for key, value in meta["grad_norm_f32"].items():
        assert_close(
            key, grads[our_name(key)].norm().float(), torch.tensor(value), "whole_gradient"
        )
    check_after(net, arrays, "infonce_key")


def check_logits(case: Case, net: CoCLR, batch: Batch) -> None:
    raw = copy.deepcopy(net)
    with torch.no_grad():
        query = raw.head(raw.encoder(batch["clips"][:, 0]).pooled)
        other = raw.sampler_head(raw.sampler.eval()(batch["clips"][:, 2]).pooled)
    assert_close("q_raw", query.float(), case.arrays["q_raw"], "infonce_logits")
    assert_close("kf_raw", other.float(), case.arrays["kf_raw"], "infonce_logits")
    logits, right = seen(net, batch)
    assert_close("logits", logits.float(), case.arrays["logits"], "infonce_logits")
    assert_close("mask", right, case.arrays["mask"], "exact")
    assert_close(
        "loss_all", nce(logits, right).float()[None], case.arrays["loss_all"], "infonce_loss"
    )
