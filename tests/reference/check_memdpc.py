"""MemDPC: one read of the memory, both directions, losses and gradients; and its downstream
classifier.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from objectives.memdpc import MemDPC
from ssvid import create_encoder
from ssvid.encoders.resnet2d3d import ResNet2d3d
from ssvid.nn.blocks import flatten_maps, roll_out
from ssvid.nn.convgru import ConvGRU
from ssvid.weights.dpc import LAYOUTS
from tests.reference.cases import Case, assert_close
from tests.reference.check_dpc import clip_of, made

(LAYOUT,) = (layout for layout in LAYOUTS if layout.name == "memdpc")
WAYS = ("forward", "backward")
WHOLE = {
    "hidden0",
    "mem_logits0",
    "attention0",
    "read0",
    "context_feature",
    "loss",
    "losses",
    "acc",
}
WHOLE |= {f"{what}_{way}" for what in ("pred", "gt", "score") for way in WAYS}


def recognises(case: Case) -> bool:
    return is_whole(case) or case.arrays.keys() == {"logits", "context_after_bn"}


def is_whole(case: Case) -> bool:
    return {"mem_logits0", "score_backward"} <= case.arrays.keys()


def check(case: Case) -> None:
    (check_whole if is_whole(case) else check_classifier)(case)


def built(case: Case) -> MemDPC:
    """In float64, in the case's mode; dropout is off in both."""
    cfg = case.meta["cfg"]
    encoder = create_encoder(f"{case.meta['net']}_2d3d", frames=cfg["SL"], size=cfg["S"])
    net = MemDPC(
        encoder, blocks=cfg["N"], predicted=cfg["P"], slots=cfg["mem"], dropout=0.0
    ).double()
    net.load_state_dict(LAYOUT.to_ours(made(case.meta["seed"], case.meta["weights"]["keys"])))
    assert sum(p.numel() for p in net.parameters()) == case.meta["weights"]["n_params"]
    return net.train(case.meta["mode"].startswith("train"))


def check_whole(case: Case) -> None:
    arrays, P = case.arrays, case.meta["cfg"]["P"]
    net = built(case)
    clip = rearrange(clip_of(case).double(), "B N C T H W -> B C (N T) H W")
    with torch.no_grad():
        z = net.encode_maps(clip)
        states = {way: gru(order[:, :-P].relu())[1][-1] for way, gru, order in both_ways(net, z)}
    assert_close("hidden0", states["forward"].float(), arrays["hidden0"], "dpc_map")
    assert_close(
        "context_feature", states["forward"][:, None].float(), arrays["context_feature"], "dpc_map"
    )
    state = arrays["hidden0"].double()  # theirs: a read is held to its own tolerance
    assert_close(
        "mem_logits0", net.predict(state).detach().float(), arrays["mem_logits0"], "memory"
    )
    assert_close("attention0", net.address(state).detach().float(), arrays["attention0"], "memory")
    assert_close("read0", net.read(state).detach().float(), arrays["read0"], "memory")
    for way, gru, order in both_ways(net, z):
        with torch.no_grad():
            pred, true = roll_out(gru, order[:, :-P], P, net.read), order[:, -P:]
        assert_close(
            f"pred_{way}",
            rearrange(pred, "B P D h w -> B D P h w").float(),
            arrays[f"pred_{way}"],
            "dpc_map",
        )
        assert_close(
            f"gt_{way}",
            rearrange(true, "B P D h w -> D B P (h w)").float(),
            arrays[f"gt_{way}"],
            "dpc_map",
        )
        assert_close(
            f"score_{way}",
            (flatten_maps(pred) @ flatten_maps(true).T).float(),
            arrays[f"score_{way}"],
            "dpc_score",
        )
    check_loss(case, built(case), clip)  # anew: batch norm has moved on
    seen = {name for name in arrays if name.startswith("after_bn1.")}
    assert arrays.keys() == WHOLE | seen


def both_ways(net: MemDPC, z: Tensor) -> list[tuple[str, ConvGRU, Tensor]]:
    assert net.gru_back is not None
    return [("forward", net.gru, z), ("backward", net.gru_back, z.flip(1))]


def check_loss(case: Case, net: MemDPC, clip: Tensor) -> None:
    arrays, meta = case.arrays, case.meta
    loss = net({"clips": clip[:, None]})
    assert_close(
        "loss",
        loss.total.detach(),
        torch.tensor(meta["loss_f64"], dtype=torch.float64),
        "memdpc_loss",
    )
    assert_close("loss", loss.total.detach().float()[None], arrays["loss"], "memdpc_loss")
    losses = torch.stack([loss.parts["forward"], loss.parts["backward"]])
    assert_close("losses", losses.float(), arrays["losses"], "memdpc_loss")
    assert_close("losses", losses.float(), torch.tensor(meta["losses_f32"]), "memdpc_loss")
    tops = [[loss.parts[f"top{k}{way}"] for k in (1, 5)] for way in ("", "_backward")]
    assert_close("acc", torch.tensor(tops), arrays["acc"], "memory")
    loss.total.backward()
    norms = {name: p.grad.norm() for name, p in net.named_parameters()}
    ours = {
        row.theirs: row.ours
        for row in LAYOUT.list_rows_of_theirs(made(meta["seed"], meta["weights"]["keys"]))
    }
    for key, value in meta["grad_norm_f64"].items():
        assert_close(key, norms[ours[key]], torch.tensor(value, dtype=torch.float64), "gradient")
    for name in (name for name in arrays if name.startswith("after_bn1.")):
        after = net.state_dict()[name.replace("after_bn1.", "encoder.bn1.")]
        assert_close(name, after.float(), arrays[name], "dpc_map")


class Classifier(nn.Module):
    """MemDPC's downstream head: ReLU before the average over time, the last states of both
    directions side by side.
    """

    def __init__(self, encoder: ResNet2d3d, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.gru, self.gru_back = (
            ConvGRU(encoder.dim, encoder.dim),
            ConvGRU(encoder.dim, encoder.dim),
        )
        self.final_bn = nn.BatchNorm1d(2 * encoder.dim)
        self.final_fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(2 * encoder.dim, classes))

    def forward(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        tokens, _, grid, *_ = self.encoder(rearrange(blocks, "B N C T H W -> (B N) C T H W"))
        z = reduce(
            F.relu(tokens),
            "(B N) (t h w) D -> B N D h w",
            "mean",
            N=blocks.shape[1],
            t=grid.t,
            h=grid.h,
        )
        states = [self.gru(z)[1][-1], self.gru_back(z.flip(1))[1][-1]]
        context = self.final_bn(torch.cat([state.mean((-2, -1)) for state in states], 1))
        return self.final_fc(context), context


def check_classifier(case: Case) -> None:
    """Its input is that of the whole cases beside it."""
    beside = [Case(p) for p in case.path.parent.glob("*.json") if p.with_suffix(".npz").exists()]
    whole = next(c for c in beside if is_whole(c) and c.meta["seed"] == case.meta["seed"])
    net = (
        Classifier(create_encoder(f"{whole.meta['net']}_2d3d"), case.meta["num_class"])
        .double()
        .eval()
    )
    weights = made(case.meta["seed"], case.meta["weights"]["keys"])
    ours = {key: value for key, value in LAYOUT.to_ours(weights).items() if key != "memory"}
    net.load_state_dict(ours | {k: v for k, v in weights.items() if k.startswith("final_")})
    with torch.no_grad():
        logits, context = net(clip_of(whole).double())
    assert_close("logits", logits[:, None].float(), case.arrays["logits"], "dpc_map")
    assert_close("context", context[:, None].float(), case.arrays["context_after_bn"], "dpc_map")
