"""A file -> its layout, and the arguments of an encoder that its tensors fit.

A published checkpoint is identified by its keys. The arguments that the user chose are compared
with those that the tensors show, and a UserError says where they differ.
"""

import inspect
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from ssvid import registry
from ssvid.encoder import get_encoder_class
from ssvid.errors import UserError
from ssvid.weights import (
    blip,
    clip,
    coclr,
    dpc,
    huggingface,
    mae_st,
    milnce,
    tan,
    videomae,
    videoprism,
)
from ssvid.weights.files import WeightsFile, hint_at_entries
from ssvid.weights.layout import Layout, Net, State

LAYOUTS = (*videomae.LAYOUTS, *mae_st.LAYOUTS, *huggingface.LAYOUTS, *dpc.LAYOUTS, *coclr.LAYOUTS)
LAYOUTS = (*LAYOUTS, *milnce.LAYOUTS, *tan.LAYOUTS, *clip.LAYOUTS, *videoprism.LAYOUTS)
LAYOUTS = (*LAYOUTS, *blip.LAYOUTS)
# Prefixes that all keys of a file may share.
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "encoder.",
    "encoder_q.0.",
    "params/",
)
# A net inside a larger one: the prefix of its keys -> the prefixes that all other keys must have.
NESTED_NETS = {
    "encoder_q.0.": ("encoder_q.", "encoder_k.", "sampler.", "queue"),
    "backbone.": ("final_bn.", "final_fc.", "agg", "network_pred.", "mb"),
}
# Arguments that the user may choose for any file. The tensors fix all other arguments of an
# encoder.
FREE_ARGUMENTS = {"heads", "frames", "size", "stride", "fps", "mean", "std", "dropout", "gelu"}


# What tensors of impossible shapes raise when a net is read from them.
SHAPE_ERRORS = (IndexError, ValueError, RuntimeError, KeyError, TypeError, ZeroDivisionError)


@dataclass(frozen=True)
class PublishedFile:
    """A file in a layout that is known here, with its tensors in our names."""

    file: WeightsFile
    layout: Layout
    prefix: str  # of its keys
    ours: State
    net: Net
    n_matched: int  # keys that the layout knows
    missing: list[str]  # keys of the layout that the file lacks, without the prefix
    unexpected: list[str]  # keys that the layout does not know, without the prefix
    n_outside: int  # keys of the larger net that contains this one
    misfits: list[str]  # tensors whose shape does not fit the others, each with both shapes

    @property
    def licence(self) -> str | None:
        """The licence that the file names, else that of the layout."""
        if self.file.licence is None:
            return self.layout.licence
        return None if self.file.licence == "none" else self.file.licence

    @property
    def description(self) -> str:
        """What it is, for a sentence: `a VideoMAE encoder of vit_base (768 wide, 12 deep)`."""
        return f"a {self.layout.title}{phrase_net(self.net)}"

    def encoder_state(self) -> State:
        """The tensors of the encoder alone, in the names of its state dict."""
        return select_under(self.ours, "encoder.")

    def require_complete(self) -> None:
        """Raise UserError if the file fits the layout in part.

        Then keys are missing or unexpected, or shapes do not fit each other.
        """
        if self.misfits:
            count = len(self.misfits) - 1
            raise UserError(
                f"{self.file.path} is damaged or no {self.layout.title}: beside its other tensors, "
                f"{self.misfits[0]}{f' (and {count} more)' if count else ''}; partial=True loads "
                "the tensors that fit."
            )
        if self.missing or self.unexpected:
            absent = f"{len(self.missing)} are missing"
            absent += f", such as {self.missing[0]!r}" if self.missing else ""
            unknown = f"{len(self.unexpected)} belong to something else"
            unknown += f", such as {self.unexpected[0]!r}" if self.unexpected else ""
            raise UserError(
                f"{self.file.path} is only partly a {self.layout.title}: {self.n_matched} keys "
                f"match, {absent}, and {unknown}; partial=True loads the keys that match."
            )


def select_under(state: State, prefix: str) -> State:
    """The tensors whose keys begin with the prefix, under their keys without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def identify_file(file: WeightsFile) -> PublishedFile | None:
    """The layout of a file and its tensors in our names; None if no layout is recognised.

    Raises UserError if the keys fit a layout but the tensors have impossible shapes.
    """
    keys, prefix = set(file.tensors), ""
    while True:
        layout = find_layout(keys, prefix)
        if layout is not None:
            return read_tensors(file, layout, prefix, 0)
        longer = find_longer_prefix(keys, prefix)
        if longer is None:
            break
        prefix = longer
    for inner, outer in NESTED_NETS.items():
        net_keys = {key for key in keys if key.startswith(prefix + inner)}
        allowed = tuple(prefix + name for name in outer)
        if all(key.startswith(allowed) for key in keys - net_keys):
            layout = find_layout(net_keys, prefix + inner)
            if layout is not None:
                return read_tensors(file, layout, prefix + inner, len(keys - net_keys))
    return None


def find_layout(keys: set[str], prefix: str) -> Layout | None:
    """The first layout whose markers are among the keys."""
    for layout in LAYOUTS:
        if layout.matches(keys, prefix):
            return layout
    return None


def find_longer_prefix(keys: set[str], prefix: str) -> str | None:
    """The prefix with one of PREFIXES behind it, if all keys begin with that."""
    for addition in PREFIXES:
        if all(key.startswith(prefix + addition) for key in keys):
            return prefix + addition
    return None


def read_tensors(file: WeightsFile, layout: Layout, prefix: str, n_outside: int) -> PublishedFile:
    """The tensors under `prefix` in our names, and the net that they describe."""
    theirs = select_under(file.tensors, prefix)
    missing: list[str] = []
    misfits: list[str] = []
    try:
        keys = layout.before_reading(theirs).keys()
        rows = list(dict.fromkeys(row.theirs for row in layout.list_rows_of_theirs(keys)))
        missing = [key for key in rows if key not in keys]
        known_keys = {*rows, *layout.ignored_keys}
        unexpected = []
        for key in keys:
            if key not in known_keys and not key.startswith(layout.ignored_prefixes):
                unexpected.append(key)
        ours = layout.to_ours(theirs)
        net = layout.describe(ours)
        if not missing:
            misfits = list_misfits(layout, theirs, prefix, net, ours)
    except UserError as error:
        raise UserError(f"{file.path} seems to be a {layout.title}, but {error}") from error
    except SHAPE_ERRORS as error:  # no such net has this shape
        reason = f"its tensors have other shapes ({error})"
        if isinstance(error, KeyError) and missing:
            reason = f"{len(missing)} keys are missing, such as {missing[0]!r}"
        raise UserError(f"{file.path} seems to be a {layout.title}, but {reason}.") from error
    n_matched = len(rows) - len(missing)
    return PublishedFile(
        file, layout, prefix, ours, net, n_matched, missing, unexpected, n_outside, misfits
    )


def list_misfits(layout: Layout, theirs: State, prefix: str, net: Net, ours: State) -> list[str]:
    """The tensors of a file whose shape is not that of its net, with both shapes."""
    misfits = []
    parts = layout.list_parts(net, ours) if layout.list_parts else {}
    for key, x in (layout.to_theirs(parts) if parts else {}).items():
        if key in theirs and theirs[key].shape != x.shape:
            shapes = f"should have the shape {tuple(x.shape)}, not {tuple(theirs[key].shape)}"
            misfits.append(f"{prefix + key!r} {shapes}")
    return misfits


def is_run_checkpoint(file: WeightsFile) -> bool:
    """Whether ssvid.pretrain or ssvid.finetune wrote the file as a checkpoint of a run."""
    entries = file.other_entries
    return file.wrapper == "model" and isinstance(entries.get("config"), dict) and "rng" in entries


def unknown_layout_error(file: WeightsFile) -> UserError:
    """The error to raise for a file in no known layout; it names the first keys and the layouts."""
    first = ", ".join(list(file.tensors)[:3])
    return UserError(
        f"{file.path} is in no layout that is known here: its keys begin {first}."
        f"{hint_at_entries(file.path, file.other_entries)} Known layouts are "
        f"{', '.join(map(attrgetter('name'), LAYOUTS))}."
    )


def phrase_net(net: Net) -> str:
    """What a sentence says behind the title of a layout: ` of vit_base (768 wide, 12 deep)`."""
    return f" of {find_registered_name(net)}{phrase_size(net)}" if net.encoder else phrase_size(net)


def find_registered_name(net: Net) -> str:
    """The registered name whose fixed arguments are those of the net, such as `vit_base`.

    This is the plain name, such as `vit`, where no size has them. Raises UserError if the net has
    no encoder.
    """
    if net.encoder is None:
        raise UserError("The file holds no encoder: its net works on stored features.")
    for name in registry.encoders.names():
        if name == net.encoder or not can_build(name, net):
            continue
        fixed = read_fixed_arguments(name)
        if all(net.kwargs.get(k, v) == v for k, v in fixed.items()):
            return name
    return net.encoder


def phrase_size(net: Net) -> str:
    """What a sentence says behind the name of an encoder: its size and its peculiarities."""
    notes = []
    if net.encoder == "vit":
        notes += [f"{net.kwargs['dim']} wide", f"{net.kwargs['depth']} deep"]
    if not net.kwargs.get("running_stats", True):
        notes.append("without batch-norm statistics")
    if net.note:
        notes.append(net.note)
    return f" ({', '.join(notes)})" if notes else ""


def read_fixed_arguments(name: str) -> dict[str, Any]:
    """Arguments that a registered name fixes: `vit_base` fixes width, depth and heads of `vit`.

    Such a name lists them as its own defaults and passes all other arguments on (**kwargs).
    """
    fixed, passes_on = {}, False
    for parameter in inspect.signature(registry.encoders[name]).parameters.values():
        passes_on |= parameter.kind is parameter.VAR_KEYWORD
        if parameter.kind is parameter.KEYWORD_ONLY:
            fixed[parameter.name] = parameter.default
    return fixed if passes_on else {}


def choose_arguments(
    published: PublishedFile, name: str, user_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of the encoder `name` for this file: those of the user, else those of the file.

    Raises UserError if the file holds another encoder, or if the user chose a value that the
    tensors contradict.
    """
    path, net = published.file.path, published.net
    fixed = {**read_fixed_arguments(name), **user_kwargs}
    if not can_build(name, net):
        raise UserError(
            f"{path} is {published.description}, not of {name}: {suggest_call(published)}."
        )
    for key, value in net.kwargs.items():
        if key in fixed and key not in FREE_ARGUMENTS and not are_equal(key, fixed[key], value):
            raise UserError(
                f"{path} is {published.description}: its {key} is {value}, not {fixed[key]}: "
                f"{suggest_call(published)}."
            )
    kwargs = {**net.kwargs, **fixed}
    if net.encoder in ("vit", "videoprism") and "heads" not in kwargs:
        layout = "; `ssvid weights FILE --to videoprism --out NEW.npz --heads N` writes it down"
        raise UserError(
            f"{path} is {published.description}. No tensor shows its number of attention heads: "
            f"give heads=N{layout if net.encoder == 'videoprism' else ''}."
        )
    defaults = {**read_defaults(net.encoder or name), **read_fixed_arguments(name)}
    return {k: v for k, v in kwargs.items() if k in user_kwargs or defaults.get(k, ...) != v}


def can_build(name: str, net: Net) -> bool:
    """Whether the registered name makes the encoder of the net.

    It does if it is the name of that encoder. It also does if it is a preset, that is a function
    which fixes some arguments of that encoder: `vit_base` fixes width, depth and heads of `vit`.
    """
    if net.encoder is None:
        return False
    return name == net.encoder or (
        get_encoder_class(name) is registry.encoders[net.encoder]
        and bool(read_fixed_arguments(name))
    )


def find_difference(published: PublishedFile, name: str, user_kwargs: dict[str, Any]) -> str | None:
    """`key value` of the first argument of the file that a built encoder does not share, or None.

    Shapes are compared elsewhere. Heads, positions without parameters and the normalisation leave
    no trace in shapes, so they are compared here.
    """
    net = published.net
    if not can_build(name, net):
        return None
    built = {**read_defaults(net.encoder or name), **read_fixed_arguments(name), **user_kwargs}
    for key, value in net.kwargs.items():
        if key in {"frames", "size", "fps"} or key not in built:
            continue
        if not are_equal(key, built[key], value):
            return f"{key} {list(value) if isinstance(value, tuple) else value}"
    return None


def read_defaults(name: str) -> dict[str, Any]:
    """The defaults of a registered encoder's arguments."""
    parameters = inspect.signature(registry.encoders[name]).parameters.values()
    return {p.name: p.default for p in parameters}


def are_equal(key: str, a: Any, b: Any) -> bool:
    """Whether two values of one argument mean the same encoder."""
    # The value is where layer scale starts. A trained file shows only whether it has layer scale.
    if key == "layer_scale":
        return bool(a) == bool(b)
    return bool(tuple(a) == tuple(b) if isinstance(b, tuple) else a == b)


def suggest_call(published: PublishedFile) -> str:
    """The call that builds the encoder of the file."""
    return f"create_encoder({find_registered_name(published.net)!r}, weights=FILE)"
