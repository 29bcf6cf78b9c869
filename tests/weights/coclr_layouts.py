"""Small state dicts of S3D, InfoNCE, UberNCE and CoCLR as CoCLR's code would save them."""

from collections import OrderedDict

import torch

from tests.weights.layouts import Shapes, State, add_prefix, affine, filled

S3D = {  # channels: branch 0; reduced and out of branches 1 and 2; branch 3
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
KEYS, KEY_DIM = 8, 6  # of a queue


def s3d_layer(prefix: str, ins: int, outs: int, kernel: int, running: bool) -> Shapes:
    """A convolution of one place, or one over space and one over time."""
    parts = {"conv": (outs, ins, 1, 1, 1), "bn": (outs,)}
    if kernel > 1:
        parts = {"conv1": (outs, ins, 1, kernel, kernel), "conv2": (outs, outs, kernel, 1, 1)}
        parts |= {"bn1": (outs,), "bn2": (outs,)}
    shapes: Shapes = {}
    for part, shape in parts.items():
        shapes[f"{prefix}.{part}.weight"] = shape
        if part.startswith("bn"):
            shapes[f"{prefix}.{part}.bias"] = shape
            tracked = (
                {"running_mean": shape, "running_var": shape, "num_batches_tracked": ()}
                if running
                else {}
            )
            shapes |= add_prefix(f"{prefix}.{part}.", tracked)
    return shapes


def s3d_mixed(
    prefix: str, ins: int, widths: tuple[int, ...], gating: bool, running: bool
) -> Shapes:
    b0, b1_in, b1, b2_in, b2, b3 = widths
    shapes = s3d_layer(f"{prefix}.branch0.0", ins, b0, 1, running)
    for branch, reduced, outs in (("branch1", b1_in, b1), ("branch2", b2_in, b2)):
        shapes |= s3d_layer(f"{prefix}.{branch}.0", ins, reduced, 1, running)
        shapes |= s3d_layer(f"{prefix}.{branch}.1", reduced, outs, 3, running)
    shapes |= s3d_layer(f"{prefix}.branch3.1", ins, b3, 1, running)
    for number, outs in enumerate((b0, b1, b2, b3) if gating else ()):
        shapes |= affine(f"{prefix}.gating_b{number}.fc", outs, outs)
    return shapes


def s3d(gating: bool = False, running: bool = True) -> State:
    """An eighth as wide as published. Each layer of a stage has a second name by its position."""

    def wide(channels: int) -> int:
        return max(4, round(channels / 8))

    stages: dict[str, Shapes] = {
        "block1.0 Conv_1a": s3d_layer("", 3, wide(64), 7, running),
        "block2.1 Conv_2b": s3d_layer("", wide(64), wide(64), 1, running),
        "block2.2 Conv_2c": s3d_layer("", wide(64), wide(192), 3, running),
    }
    ins = wide(192)
    for name, channels in S3D.items():
        widths = tuple(wide(n) for n in channels)
        second_name = f"block{name[0]}.{'abcdef'.index(name[1])}"
        stages[f"{second_name} Mixed_{name}"] = s3d_mixed("", ins, widths, gating, running)
        ins = widths[0] + widths[2] + widths[4] + widths[5]
    state: State = OrderedDict()
    for number in range(1, 6):
        layers = [names for names in stages if names.startswith(f"block{number}")]
        for names in layers:
            state |= filled(add_prefix(names.split()[1], stages[names]))
        for names in layers:
            second_name, name = names.split()
            for key in stages[names]:
                state[second_name + key] = state[name + key]
    for key in state:
        if key.endswith("running_var"):
            state[key].abs_().add_(0.5)  # in place: it has two names
        if key.endswith("num_batches_tracked"):
            state[key].fill_(7)
    return OrderedDict(
        (k, v.long() if k.endswith("num_batches_tracked") else v) for k, v in state.items()
    )


def projected(prefix: str, **kinds: bool) -> State:
    """The net at 0, a head of two convolutions of one place at 2 and 4."""
    net = s3d(**kinds)
    dim = sum(
        net[f"Mixed_5c.branch{b}.bn{n}.weight"].shape[0]
        for b, n in (("0.0", ""), ("1.1", "2"), ("2.1", "2"))
    )
    dim += net["Mixed_5c.branch3.1.bn.weight"].shape[0]
    shift = {"encoder_q.": 0.0, "encoder_k.": 0.1, "sampler.": 0.2}[
        prefix
    ]  # the nets of a file differ
    head = {**affine("2", dim, dim, 1, 1, 1), **affine("4", KEY_DIM, dim, 1, 1, 1)}
    whole = {**{f"0.{key}": x for key, x in net.items()}, **filled(head)}
    return OrderedDict(
        (prefix + key, x + shift if x.is_floating_point() else x) for key, x in whole.items()
    )


def infonce(columns: State | None = None, pointer: int = 2, **kinds: bool) -> State:
    first: State = {
        "queue": filled({"queue": (KEY_DIM, KEYS)})["queue"],
        "queue_ptr": torch.tensor([pointer]),
    }
    return OrderedDict(
        {
            **first,
            **(columns or {}),
            **projected("encoder_q.", **kinds),
            **projected("encoder_k.", **kinds),
        }
    )


def ubernce(n_keys: int = KEYS) -> State:
    """`n_keys`: keys in the queue."""
    labels = torch.where(torch.arange(KEYS) < n_keys, torch.arange(KEYS) % 3, -1)
    return infonce({"queue_label": labels}, pointer=2 if n_keys == KEYS else n_keys)


def coclr(n_keys: int = KEYS, **kinds: bool) -> State:
    mark = torch.where(torch.arange(KEYS) < n_keys, 1, -1)
    columns = {"queue_second": filled({"queue_second": (KEY_DIM, KEYS)})["queue_second"] + 1}
    columns |= {
        "queue_vname": torch.where(mark == 1, 40 + torch.arange(KEYS), -1),
        "queue_label": mark,
    }
    pointer = 2 if n_keys == KEYS else n_keys
    return OrderedDict({**infonce(columns, pointer, **kinds), **projected("sampler.", **kinds)})


def coclr_odd() -> State:
    """Marks that do not follow from the pointer."""
    return OrderedDict({**coclr(), "queue_label": torch.tensor([3, 1, -1, 1, 1, 1, -1, 1])})
