"""A checkpoint -> a description, and the same tensors in another layout.

`python -m ssvid.weights FILE` prints what the file is. `--to LAYOUT --out NEW` writes the tensors.
They may come from a published file, from a run's checkpoint or from an exported encoder. A file
that goes back into the layout it came in keeps its own order of keys, its prefix and its wrapper.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssvid.errors import UserError
from ssvid.log import log
from ssvid.weights.encoders import list_exports, read_run_licence
from ssvid.weights.files import WeightsFile, read_weights, write_weights
from ssvid.weights.layout import Layout, Net, State, list_our_keys
from ssvid.weights.published import (
    LAYOUTS,
    PublishedFile,
    are_equal,
    find_registered_name,
    identify_file,
    is_run_checkpoint,
    phrase_net,
    read_defaults,
    read_fixed_arguments,
    unknown_layout_error,
)
from ssvid.weights.state_dict import read_card
from ssvid.weights.videoprism_sizes import split_biases
from ssvid.weights.vit import HEADS, guess_heads

DECODER = ("dec_", "bridge")  # beginnings of the objective's arguments about its decoder
# Arguments of encoders that say which clip they see, and those of them that space its frames.
SPACING = "fps", "stride", "whole"
CLIP = "frames", "size", *SPACING
# Endings of tensors that are buffers and so no parameters.
BUFFERS = ("running_mean", "running_var", "queue.keys", "second.keys")


@dataclass(frozen=True)
class Source:
    """The tensors of a file in our names, and what they are."""

    file: WeightsFile
    title: str
    ours: State
    net: Net
    licence: str | None
    published: PublishedFile | None = None  # None: a run wrote the file
    clip: dict[str, Any] | None = None  # of a run's encoder: frames, size and spacing


def weights(
    file: str,  # any checkpoint or exported encoder
    *,
    to: str | None = None,  # the layout to write it in
    out: str | None = None,  # the new file: .safetensors, or any other suffix for a pickle of torch
    heads: int | None = None,  # of attention, for a file to convert that does not show them
    trust: bool = False,  # read pickled objects too, which may run code
    entry: str
    | None = None,  # the tensors to read, where several entries hold some: target_encoder
) -> dict[str, Any]:
    """Print what a checkpoint is; with --to and --out, write it in another layout."""
    if (to is None) != (out is None):
        raise UserError("--to LAYOUT and --out FILE go together: give both or none.")
    if heads is not None and to is None:
        raise UserError("--heads N is for a file that is converted: give --to LAYOUT --out FILE.")
    if trust and to is None:
        raise UserError(
            "--trust reads pickled objects only to write their tensors as a safe file: give "
            "--to LAYOUT --out FILE."
        )
    layout = None if to is None else find_named_layout(to)
    if out is not None and Path(out).exists():
        raise UserError(f"--out {out} exists: name a new file.")
    source = open_source(Path(file), trust, entry)
    description = describe_source(source)
    if layout is not None and out is not None:
        if heads is not None:
            source = state_heads(source, heads)
        tensors, wrapper = convert(source, layout)
        write_weights(Path(out), tensors, wrapper, source.licence)
        description |= {"to": layout.name, "out": out, "keys": len(tensors)}
    return description


def find_named_layout(name: str) -> Layout:
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    names = ", ".join(layout.name for layout in LAYOUTS)
    raise UserError(f"There is no layout {name!r}; --to is one of {names}.")


def open_source(path: Path, trust: bool, entry: str | None = None) -> Source:
    """Read a file and say what it is. The folder of a run stands for its exported encoder.

    Raises UserError if the file is in no known layout, or fits its layout only in part.
    """
    if path.is_dir():
        exports = list_exports(path)
        if len(exports) != 1:
            raise UserError(
                f"{path} is a folder with {len(exports)} exported encoders: name a file."
            )
        (path,) = exports
    if path.suffix == ".json":
        path = find_weights_of_card(path)
    file, card = read_weights(path, trust, entry), read_card(path.with_suffix(".json"))
    if card is not None and {"name", "kwargs"} <= card.keys():
        ours = {f"encoder.{key}": x for key, x in file.tensors.items()}
        net = Net(card["name"], card["kwargs"])
        clip = dict(card.get("spec") or {}) or None
        return Source(file, "exported encoder", ours, net, card.get("licence"), clip=clip)
    if is_run_checkpoint(file):
        return open_run_checkpoint(file)
    published = identify_file(file)
    if published is None:
        raise unknown_layout_error(file)
    published.require_complete()
    title, net = published.layout.title, published.net
    return Source(file, title, published.ours, net, published.licence, published)


def find_weights_of_card(card: Path) -> Path:
    """The weights beside the card of an exported encoder. A UserError if they are not there."""
    content = read_card(card)
    if content is None:
        raise UserError(f"There is no {card}.")
    if not {"name", "kwargs"} <= content.keys():
        raise UserError(f"{card} is no card of an exported encoder: name the file of weights.")
    path = card.with_suffix(".safetensors")
    if not path.is_file():
        raise UserError(
            f"{card} is the card of an exported encoder, and its weights, {path.name}, do not lie "
            "beside it: put them there."
        )
    log.info(f"{card}: the card of the weights in {path.name}")
    return path


def open_run_checkpoint(file: WeightsFile) -> Source:
    config = file.other_entries["config"]
    if "objective" not in config:
        raise UserError(
            f"{file.path} is a checkpoint of ssvid.finetune: name the run's folder, which holds "
            "its encoder."
        )
    encoder, objective = dict(config.get("encoder") or {}), dict(config["objective"] or {})
    clip = read_clip(encoder, config.get("clip") or {})
    net = Net(encoder.pop("name", None), encoder, objective.pop("name"), objective)
    title = "checkpoint of ssvid.pretrain"
    return Source(file, title, file.tensors, net, read_run_licence(file.path), clip=clip)


def read_clip(encoder: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The clip of a run: that of the encoder's arguments, as the flags `clip` changed it."""
    clip: dict[str, Any] = {}
    is_spaced = any(map(change.get, SPACING))
    for key in CLIP:
        value = None if is_spaced and key in SPACING else encoder.get(key)
        value = change.get(key) or value
        if value:
            clip[key] = value
    return clip


def describe_source(source: Source) -> dict[str, Any]:
    """What the command prints as JSON."""
    net, published, tensors = source.net, source.published, source.file.tensors
    name = find_registered_name(net) if published and net.encoder else net.encoder
    phrase = phrase_net(net) if published else f" of {name or net.objective}"
    article = "an" if source.title[0] in "aeiou" else "a"
    log.info(f"{source.file.path}: {article} {source.title}{phrase}")
    decoder: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, value in net.settings.items():
        (decoder if key.startswith(DECODER) else settings)[key] = value
    floats = {key: x for key, x in source.ours.items() if x.is_floating_point()}
    dtypes = {str(x.dtype).removeprefix("torch.") for x in floats.values()}
    return {
        "file": str(source.file.path),
        "layout": published.layout.name if published else source.title,
        "title": source.title,
        "encoder": name,
        "kwargs": select_changed_arguments(net, name, uncounted=CLIP if source.clip else ()),
        "clip": source.clip,
        "objective": net.objective,
        "decoder": decoder or None,
        "settings": settings or None,
        "parameters": sum(x.numel() for key, x in floats.items() if not key.endswith(BUFFERS)),
        "dtype": ", ".join(sorted(dtypes)),
        "tensors": len(tensors),
        "wrapper": source.file.wrapper,
        "licence": source.licence,
    }


def select_changed_arguments(
    net: Net, name: str | None, uncounted: Sequence[str] = ()
) -> dict[str, Any]:
    """The encoder's arguments that differ from the defaults of its registered name.

    `uncounted`: arguments that the clip of a run stands for, which the user may have changed.
    """
    defaults: dict[str, Any] = {}
    if net.encoder and name:
        defaults = {**read_defaults(net.encoder), **read_fixed_arguments(name)}
    return {
        key: value
        for key, value in net.kwargs.items()
        if key not in uncounted
        and (key not in defaults or not are_equal(key, value, defaults[key]))
    }


def state_heads(source: Source, heads: int) -> Source:
    """The source with the user's number of attention heads. A UserError if it shows its own."""
    net = source.net
    if net.encoder != "videoprism" or "heads" in net.kwargs:
        raise UserError(
            f"--heads {heads}: it is for files of VideoPrism whose tensors do not show the number, "
            f"and {source.file.path} is no such file: leave it out."
        )
    net = net._replace(kwargs={**net.kwargs, "heads": heads})
    return replace(source, ours=split_biases(source.ours, heads), net=net)


def convert(source: Source, layout: Layout) -> tuple[State, str | None]:
    """The tensors in the names of a layout, and the entry of the file that they belong under.

    Raises UserError if the layout needs tensors that the source lacks, or cannot hold those that it
    has.
    """
    check_conversion(source, layout)
    theirs = layout.to_theirs(source.ours)
    published = source.published
    if published is None or published.layout != layout:
        return {layout.prefix + key: x for key, x in theirs.items()}, layout.wrapper
    # The file keeps its own order, and gets no second names that it did not have.
    tensors = {}
    for key in source.file.tensors:
        if key.startswith(published.prefix):
            tensors[key] = theirs[key.removeprefix(published.prefix)]
    return tensors, source.file.wrapper


def check_conversion(source: Source, layout: Layout) -> None:
    """Raise UserError if the source cannot be written in the layout."""
    ours, path = source.ours, source.file.path
    needed: set[str] = set()
    for row in layout.list_rows_of_ours(ours):
        needed.update(list_our_keys(row))
    missing, surplus = sorted(needed - ours.keys()), sorted(ours.keys() - needed)
    if missing:
        raise UserError(
            f"{path} cannot be written as {layout.name}: the layout needs {missing[0]!r}, which "
            "the file lacks."
        )
    if surplus and not can_leave_out(source, layout, surplus):
        raise UserError(
            f"{path} cannot be written as {layout.name}, which cannot hold {surplus[0]!r}."
        )
    positions = source.net.kwargs.get("positions", "sincos")
    if layout.positions and positions not in layout.positions:
        raise UserError(
            f"{path} has positions {positions}, and {layout.name} can hold only "
            f"{' or '.join(layout.positions)}."
        )
    heads, dim = source.net.kwargs.get("heads"), source.net.kwargs.get("dim")
    if heads and dim and guess_heads(dim, HEADS).get("heads") != heads:
        log.info(f"note: no layout holds the number of heads: load the file with heads={heads}.")


def can_leave_out(source: Source, layout: Layout, surplus: list[str]) -> bool:
    """Whether the layout takes the encoder alone out of a larger file, which is then logged."""
    if not layout.name.endswith(("-encoder", "-s3d", "-finetuned")):
        return False
    if any(key.startswith("encoder.") for key in surplus):
        return False
    log.info(f"{source.file.path}: {len(surplus)} tensors outside the encoder left out")
    return True


if __name__ == "__main__":
    from ssvid.cli import run_command

    run_command("weights")
