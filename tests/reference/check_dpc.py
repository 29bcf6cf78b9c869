"""DPC: its net, its recurrent cell, the whole objective and its classifier, on weights made by the
cases' rule.
"""

import hashlib
from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from objectives.dpc import DPC, classify_pairs, flatten_maps
from ssvid import create_encoder
from ssvid.encoders.resnet2d3d import ResNet2d3d
from ssvid.nn.convgru import ConvGRU
from ssvid.weights.dpc import LAYOUTS
from tests.reference.cases import Case, assert_close
from tests.reference.rule import rule, standard_normal

CODES = {0: 1, 1: -1, 2: -3, 3: 0}  # our kinds -> the published mask's
LAYOUT = LAYOUTS[0]
FIELDS = {
    "net": lambda case: "weights_trs0" in case.meta,
    "gru": lambda case: {"x", "h0", "cell0_step"} <= case.arrays.keys(),
    "whole": lambda case: "mask_value_counts" in case.meta,
    "classifier": lambda case: (
        {"logits", "context"} == case.arrays.keys()
        and case.meta.get("input", "").endswith("dpc_full")
    ),
}


def recognises(case: Case) -> bool:
    return any(field(case) for field in FIELDS.values())


def check(case: Case) -> None:
    name = next(name for name, field in FIELDS.items() if field(case))
    {"net": check_net, "gru": check_gru, "whole": check_whole, "classifier": check_classifier}[
        name
    ](case)


def made(seed: int, keys: Iterable[list]) -> dict[str, Tensor]:
    """The state dict of a case; a key that names a tensor again is left out."""
    return {key: rule(seed, key, shape) for key, shape, *_ in keys if "ConvGRUCell_" not in key}


def clip_of(case: Case) -> Tensor:
    clip = standard_normal(
        case.meta["seed"], f"input:{case.meta['input_name']}", case.meta["input_shape"]
    )
    assert hashlib.sha256(clip.numpy().tobytes()).hexdigest() == case.meta["input_sha256"]
    return clip


def check_net(case: Case) -> None:
    """Each form (with running statistics or without) in each mode: its map, its stages, its
    statistics afterwards.
    """
    clip, seen = clip_of(case).double(), set()
    for name in (n for n in case.arrays if "after" not in n):
        form, mode = name.split("_")
        net = create_encoder(f"{case.meta['net']}_2d3d", running_stats=form == "trs1").double()
        net.load_state_dict(made(case.meta["seed"], case.meta[f"weights_{form}"]["keys"]))
        assert net.dim == case.meta["feature_size"]
        published = case.meta.get(f"{name}_stages", {})
        stages: dict[str, Tensor] = {}
        for stage in published:
            net.get_submodule(stage).register_forward_hook(partial(keep, stages, stage))
        with torch.no_grad():
            tokens, _, grid, *_ = net.train(mode == "train")(clip)
        ours = rearrange(tokens, "B (t h w) D -> B D t h w", t=grid.t, h=grid.h)
        assert_close(name, ours.float(), case.arrays[name], "dpc_map")
        for stage, theirs in published.items():
            check_stage(f"{name} {stage}", stages[stage], theirs)
        after = {f"{form}_after_{mode}_{key}": value for key, value in net.state_dict().items()}
        for key in after.keys() & case.arrays.keys():
            assert_close(key, after[key].float(), case.arrays[key], "dpc_map")
        seen |= {name} | after.keys() & case.arrays.keys()
    assert seen == case.arrays.keys()


def keep(stages: dict[str, Tensor], stage: str, module: nn.Module, ins: tuple, out: Tensor) -> None:
    stages[stage] = out


def check_stage(name: str, x: Tensor, theirs: dict) -> None:
    assert list(x.shape) == theirs["shape"]
    for what, value in {
        "mean": x.mean(),
        "std": x.std(),
        "l2": x.norm(),
        "absmax": x.abs().max(),
    }.items():
        scale = theirs["l2" if what == "l2" else "absmax"]
        assert abs(float(value) - theirs[what]) <= 1e-4 * abs(scale), f"{name} {what}"


def check_gru(case: Case) -> None:
    cfg, arrays = case.meta["cfg"], case.arrays
    assert cfg["mode"] == "eval"
    gru = ConvGRU(
        cfg["input_size"],
        cfg["hidden_size"],
        kernel=cfg["kernel_size"],
        layers=cfg["num_layers"],
        dropout=cfg["dropout"],
    ).eval()
    stored = {k.removeprefix("sd/"): v for k, v in arrays.items() if k.startswith("sd/")}
    for key, value in stored.items():  # each cell stands twice
        other = key.replace("ConvGRUCell_0", "cell_list.")
        assert torch.equal(value, stored[other])
    assert sum(p.numel() for p in gru.parameters()) == case.meta["weights"]["n_params"]
    gru.load_state_dict(
        {
            k.removeprefix("gru."): v
            for k, v in LAYOUT.to_ours({f"agg.{k}": v for k, v in stored.items()}).items()
        }
    )
    with torch.no_grad():
        for state, name in ((None, "none"), (arrays["h0"], "h0")):
            out, last = gru(arrays["x"], state)
            assert_close(f"out_from_{name}", out, arrays[f"out_from_{name}"], "gru")
            assert_close(
                f"last_from_{name}", last.transpose(0, 1), arrays[f"last_from_{name}"], "gru"
            )
        step = gru.cells[0](arrays["x"][:, 0], arrays["h0"][0])
    assert_close("cell0_step", step, arrays["cell0_step"], "gru")
    known = {
        "x",
        "h0",
        "cell0_step",
        *(f"{a}_from_{b}" for a in ("out", "last") for b in ("none", "h0")),
    }
    assert arrays.keys() - stored.keys() - {f"sd/{k}" for k in stored} == known


def check_whole(case: Case) -> None:
    cfg, arrays, meta = case.meta["cfg"], case.arrays, case.meta
    encoder = create_encoder(
        f"{cfg['net']}_2d3d", running_stats=False, frames=cfg["SL"], size=cfg["S"]
    )
    dpc = DPC(encoder, blocks=cfg["N"], predicted=cfg["P"]).double().eval()
    weights = made(meta["seed"], meta["weights"]["keys"])
    dpc.load_state_dict(LAYOUT.to_ours(weights))
    assert sum(p.numel() for p in dpc.parameters()) == meta["weights"]["n_params"]
    clip = rearrange(clip_of(case).double(), "B N C T H W -> B C (N T) H W")
    z = dpc.encode_maps(clip).detach()
    pred, true = dpc.roll_out(z[:, : -cfg["P"]]).detach(), z[:, -cfg["P"] :]
    shape = (cfg["B"], cfg["P"], true.shape[3] * true.shape[4])
    scores = flatten_maps(pred) @ flatten_maps(true).T
    assert_close("pred", pred.float(), arrays["pred"], "dpc_score")
    assert_close("score", scores.float().view(*shape, *shape), arrays["score"], "dpc_score")
    kinds = classify_pairs(*shape, z.device)
    codes = torch.tensor([CODES[k] for k in range(4)])[kinds]
    assert_close("mask", codes.view(*shape, *shape), arrays["mask"], "exact")
    assert {
        str(int(c)): int(n) for c, n in zip(*codes.unique(return_counts=True), strict=True)
    } == meta["mask_value_counts"]
    assert_close("target_flat", (kinds == 0).int().argmax(1), arrays["target_flat"], "exact")
    loss = dpc({"clips": clip[:, None]})
    assert_close(
        "loss", loss.total.detach(), torch.tensor(meta["loss_f64"], dtype=torch.float64), "loss"
    )
    for k in (1, 5):
        assert abs(float(loss.parts[f"top{k}"]) - meta[f"top{k}"]) < 1e-6
    assert (
        abs(
            float(
                (scores.topk(3, dim=1).indices == arrays["target_flat"][:, None])
                .any(1)
                .float()
                .mean()
            )
            - meta["top3"]
        )
        < 1e-6
    )
    loss.total.backward()
    norms = {name: p.grad.norm() for name, p in dpc.named_parameters()}
    ours = {row.theirs: row.ours for row in LAYOUT.list_rows_of_theirs(weights)}
    for key, value in meta["grad_norm_f64"].items():
        assert_close(key, norms[ours[key]], torch.tensor(value, dtype=torch.float64), "gradient")
    assert arrays.keys() == {"pred", "score", "mask", "target_flat"}


class Classifier(nn.Module):
    """DPC's downstream head: ReLU *before* the average over time, the GRU over all blocks, its last
    state.
    """

    def __init__(self, encoder: ResNet2d3d, classes: int) -> None:
        super().__init__()
        self.encoder, self.gru = encoder, ConvGRU(encoder.dim, encoder.dim)
        self.final_bn = nn.BatchNorm1d(encoder.dim)
        self.final_fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(encoder.dim, classes))

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
        context = self.final_bn(self.gru(z)[1][-1].mean((-2, -1)))
        return self.final_fc(context), context


def check_classifier(case: Case) -> None:
    """Its input is that of the case of the whole objective which lies beside it."""
    beside = [Case(p) for p in case.path.parent.glob("*.json") if p.with_suffix(".npz").exists()]
    (whole,) = [c for c in beside if FIELDS["whole"](c) and c.meta["seed"] == case.meta["seed"]]
    net = (
        Classifier(create_encoder(f"{whole.meta['cfg']['net']}_2d3d"), case.meta["num_class"])
        .double()
        .eval()
    )
    weights = made(case.meta["seed"], case.meta["weights"]["keys"])
    net.load_state_dict(
        LAYOUT.to_ours(weights) | {k: v for k, v in weights.items() if k.startswith("final_")}
    )
    with torch.no_grad():
        logits, context = net(clip_of(whole).double())
    assert_close("logits", logits[:, None].float(), case.arrays["logits"], "dpc_map")
    assert_close("context", context[:, None].float(), case.arrays["context"], "dpc_map")
