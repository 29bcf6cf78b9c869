"""A file -> which layout it is in; what the user asked for -> the arguments of an encoder that fits, or a sentence."""

import inspect
from dataclasses import dataclass
from typing import Any

from ssvid import registry
from ssvid.encoder import get_encoder_class
from ssvid.errors import UserError
from ssvid.weights import coclr, dpc, huggingface, mae_st, milnce, tan, videomae
from ssvid.weights.files import File
from ssvid.weights.layout import Layout, Net, State

LAYOUTS = (*videomae.LAYOUTS, *mae_st.LAYOUTS, *huggingface.LAYOUTS, *dpc.LAYOUTS, *coclr.LAYOUTS)
LAYOUTS = (*LAYOUTS, *milnce.LAYOUTS, *tan.LAYOUTS)
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "encoder.",
    "encoder_q.0.",
)  # of every key
# A net inside a larger one: the prefix of its keys, and what else may stand beside it.
INSIDE = {
    "encoder_q.0.": ("encoder_q.", "encoder_k.", "sampler.", "queue"),
    "backbone.": ("final_bn.", "final_fc.", "agg", "network_pred.", "mb"),
}
# What the user may choose whatever the file holds; all else of an encoder's arguments is in its tensors.
FREE = {"heads", "frames", "size", "stride", "fps", "mean", "std", "dropout"}


@dataclass(frozen=True)
class Found:
    file: File
    layout: Layout
    prefix: str  # of its keys
    ours: State
    net: Net
    matched: int
    missing: list[str]  # their names, without the prefix
    unexpected: list[str]
    beside: int  # keys of the larger net that it stands in

    @property
    def licence(self) -> str | None:
        said = self.file.licence
        return self.layout.licence if said is None else None if said == "none" else said

    @property
    def what(self) -> str:
        return f"a {self.layout.title}{of(self.net)}"

    def encoder(self) -> State:
        return {
            k.removeprefix("encoder."): v for k, v in self.ours.items() if k.startswith("encoder.")
        }

    def whole(self) -> None:
        """Refuse a file that is only partly what it seems."""
        if self.missing or self.unexpected:
            absent = f"{len(self.missing)} are missing"
            absent += f", such as {self.missing[0]!r}" if self.missing else ""
            odd = f"{len(self.unexpected)} are of something else"
            odd += f", such as {self.unexpected[0]!r}" if self.unexpected else ""
            raise UserError(
                f"{self.file.path} is only partly a {self.layout.title}: {self.matched} keys match, {absent}, "
                f"and {odd}; partial=True takes what matches."
            )


def find(file: File) -> Found | None:
    """None where no layout is recognised."""
    keys, prefix = set(file.tensors), ""
    while True:
        for layout in LAYOUTS:
            if layout.marked(keys, prefix):
                return _found(file, layout, prefix, 0)
        longer = next(
            (p for p in PREFIXES if all(key.startswith(prefix + p) for key in keys)), None
        )
        if longer is None:
            break
        prefix += longer
    for inside, beside in INSIDE.items():
        part = {key for key in keys if key.startswith(prefix + inside)}
        if all(key.startswith(tuple(prefix + b for b in beside)) for key in keys - part):
            for layout in LAYOUTS:
                if layout.marked(part, prefix + inside):
                    return _found(file, layout, prefix + inside, len(keys - part))
    return None


def _found(file: File, layout: Layout, prefix: str, beside: int) -> Found:
    theirs = {k[len(prefix) :]: v for k, v in file.tensors.items() if k.startswith(prefix)}
    rows = list(dict.fromkeys(row.theirs for row in layout.of_theirs(theirs)))
    missing, known = [key for key in rows if key not in theirs], set(rows)
    unexpected = [key for key in theirs if key not in known]
    try:
        ours = layout.to_ours(theirs)
        net = layout.describe(ours)
    except UserError as error:
        raise UserError(f"{file.path} seems a {layout.title}, but {error}") from error
    except (
        IndexError,
        ValueError,
        RuntimeError,
        KeyError,
    ) as error:  # a shape that no such net has
        raise UserError(
            f"{file.path} seems a {layout.title}, but its tensors have other shapes ({error})."
        ) from error
    return Found(
        file, layout, prefix, ours, net, len(rows) - len(missing), missing, unexpected, beside
    )


def is_run(file: File) -> bool:
    """A checkpoint that ssvid.pretrain wrote."""
    return (
        file.wrapper == "model" and isinstance(file.rest.get("config"), dict) and "rng" in file.rest
    )


def unknown(file: File) -> UserError:
    first = ", ".join(list(file.tensors)[:3])
    return UserError(
        f"{file.path} is in no layout that is known here ({', '.join(layout.name for layout in LAYOUTS)}): "
        f"its keys begin {first}."
    )


def of(net: Net) -> str:
    """What is said behind the title."""
    return f" of {sized(net)}{size(net)}" if net.encoder else size(net)


def sized(net: Net) -> str:
    """The registered name of that size or form, where there is one."""
    if net.encoder is None:
        raise UserError("There is no encoder in it: it works on stored features.")
    for name in registry.encoders.names():
        if name == net.encoder or not family(name, net):
            continue
        if all(net.kwargs.get(k, v) == v for k, v in fixed_by(name).items()):
            return name
    return net.encoder


def size(net: Net) -> str:
    """What is said behind the name."""
    said = (
        [f"{net.kwargs['dim']} wide", f"{net.kwargs['depth']} deep"] if net.encoder == "vit" else []
    )
    said += [] if net.kwargs.get("running_stats", True) else ["without batch-norm statistics"]
    said += [net.untold] if net.untold else []
    return f" ({', '.join(said)})" if said else ""


def fixed_by(name: str) -> dict[str, Any]:
    """What a name says of itself: `vit_base` lists its width, depth and heads, and hands the rest on."""
    parameters = inspect.signature(registry.encoders[name]).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {}
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def arguments(found: Found, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Of the encoder `name` with the file's weights: what the user gave, and the rest as the file has it."""
    net, wanted = found.net, {**fixed_by(name), **given}
    if not family(name, net):
        raise UserError(f"{found.file.path} is {found.what}, not of {name}: {advice(found)}.")
    for key, value in net.kwargs.items():
        if key in wanted and key not in FREE and not same(key, wanted[key], value):
            raise UserError(
                f"{found.file.path} is {found.what}: its {key} is {value}, not {wanted[key]}: {advice(found)}."
            )
    kwargs = {**net.kwargs, **wanted}
    if net.encoder == "vit" and "heads" not in kwargs:
        raise UserError(
            f"{found.file.path} is {found.what}, whose number of attention heads no tensor tells: give heads=N."
        )
    plain = {**defaults(net.encoder or name), **fixed_by(name)}
    return {
        key: value for key, value in kwargs.items() if key in given or plain.get(key, ...) != value
    }


def family(name: str, net: Net) -> bool:
    """A name may be of a function that makes an encoder of another name and hands arguments on: `vit_base -> ViT`."""
    if net.encoder is None:
        return False
    return name == net.encoder or (
        get_encoder_class(name) is registry.encoders[net.encoder] and bool(fixed_by(name))
    )


def differing(found: Found, name: str, given: dict[str, Any]) -> str | None:
    """`key value` of the file, the first in which a built encoder is not the file's; shapes are compared elsewhere.

    Heads, positions without parameters and the normalisation leave no trace in shapes.
    """
    net = found.net
    if not family(name, net):
        return None
    have = {**defaults(net.encoder or name), **fixed_by(name), **given}
    for key, value in net.kwargs.items():
        if key not in {"frames", "size", "fps"} and key in have and not same(key, have[key], value):
            return f"{key} {list(value) if isinstance(value, tuple) else value}"
    return None


def defaults(name: str) -> dict[str, Any]:
    return {
        p.name: p.default for p in inspect.signature(registry.encoders[name]).parameters.values()
    }


def same(key: str, a: Any, b: Any) -> bool:
    if key == "layer_scale":  # its start, of which a trained file knows only that there was one
        return bool(a) == bool(b)
    return bool(tuple(a) == tuple(b) if isinstance(b, tuple) else a == b)


def advice(found: Found) -> str:
    return f"create_encoder({sized(found.net)!r}, weights=FILE)"
