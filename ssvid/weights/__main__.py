"""A checkpoint -> what it is, and the same tensors in another layout: `python -m ssvid.weights FILE`.

`--to LAYOUT --out NEW` writes them, from a published file, a run's checkpoint or an exported encoder. Back into the
layout it came in, a file keeps its own order of keys, prefix and wrapper.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssvid.errors import UserError
from ssvid.log import log
from ssvid.weights.encoders import exported_in, licence_of_run
from ssvid.weights.files import File, read, write
from ssvid.weights.layout import Layout, Net, State, our_keys
from ssvid.weights.published import (
    LAYOUTS,
    Found,
    defaults,
    find,
    fixed_by,
    is_run,
    of,
    same,
    sized,
    unknown,
)
from ssvid.weights.state_dict import read_card
from ssvid.weights.vit import HEADS, heads

DECODER = ("dec_", "bridge")  # what the objective's arguments about it begin with


@dataclass(frozen=True)
class Source:
    """Tensors in our names, wherever they are from."""

    file: File
    title: str
    ours: State
    net: Net
    licence: str | None
    found: Found | None = None


def weights(
    file: str,  # any checkpoint or exported encoder
    *,
    to: str | None = None,  # a layout to write it in
    out: str | None = None,  # the new file: .safetensors, or anything else for torch.save's form
    trust: bool = False,  # read pickled objects too, which may run code
) -> dict[str, Any]:
    """Print what a checkpoint is; with --to and --out, write it in another layout."""
    if (to is None) != (out is None):
        raise UserError("--to LAYOUT and --out FILE go together: give both or none.")
    if trust and to is None:
        raise UserError(
            "--trust reads pickled objects only to write them as a safe file: give --to LAYOUT --out FILE."
        )
    layout = next((layout for layout in LAYOUTS if layout.name == to), None)
    if to is not None and layout is None:
        raise UserError(
            f"There is no layout {to!r}; --to is one of {', '.join(known.name for known in LAYOUTS)}."
        )
    if out is not None and Path(out).exists():
        raise UserError(f"--out {out} exists: name a new file.")
    source = opened(Path(file), trust)
    told = tell(source)
    if layout is not None and out is not None:
        tensors, wrapper = converted(source, layout)
        write(Path(out), tensors, wrapper, source.licence)
        told |= {"to": layout.name, "out": out, "keys": len(tensors)}
    return told


def opened(path: Path, trust: bool) -> Source:
    """A run folder stands for its exported encoder."""
    if path.is_dir():
        exports = exported_in(path)
        if len(exports) != 1:
            raise UserError(
                f"{path} is a folder with {len(exports)} exported encoders: name a file."
            )
        (path,) = exports
    if path.suffix == ".json":
        path = path.with_suffix(".safetensors")
    file, card = read(path, trust), read_card(path.with_suffix(".json"))
    if card is not None and {"name", "kwargs"} <= card.keys():
        ours = {f"encoder.{key}": x for key, x in file.tensors.items()}
        return Source(
            file, "exported encoder", ours, Net(card["name"], card["kwargs"]), card.get("licence")
        )
    if is_run(file) and "objective" not in file.rest["config"]:
        raise UserError(
            f"{path} is a checkpoint of ssvid.finetune: name the run's folder, which holds its encoder."
        )
    if is_run(file):
        encoder, objective = (
            dict(file.rest["config"].get(key) or {}) for key in ("encoder", "objective")
        )
        net = Net(encoder.pop("name", None), encoder, objective.pop("name"), objective)
        return Source(file, "checkpoint of ssvid.pretrain", file.tensors, net, licence_of_run(path))
    found = find(file)
    if found is None:
        raise unknown(file)
    found.whole()
    return Source(file, found.layout.title, found.ours, found.net, found.licence, found)


def tell(source: Source) -> dict[str, Any]:
    net, found, tensors = source.net, source.found, source.file.tensors
    name = sized(net) if found and net.encoder else net.encoder
    floats = {key: x for key, x in source.ours.items() if x.is_floating_point()}
    buffers = ("running_mean", "running_var", "queue.keys", "second.keys")
    plain = {**defaults(net.encoder), **fixed_by(name)} if net.encoder and name else {}
    said = of(net) if found else f" of {name or net.objective}"
    log.info(f"{source.file.path}: a {source.title}{said}")
    return {
        "file": str(source.file.path),
        "layout": found.layout.name if found else source.title,
        "title": source.title,
        "encoder": name,
        "kwargs": {
            k: v for k, v in net.kwargs.items() if k not in plain or not same(k, v, plain[k])
        },
        "objective": net.objective,
        "decoder": {k: v for k, v in net.settings.items() if k.startswith(DECODER)} or None,
        "settings": {k: v for k, v in net.settings.items() if not k.startswith(DECODER)} or None,
        "parameters": sum(x.numel() for key, x in floats.items() if not key.endswith(buffers)),
        "dtype": ", ".join(sorted({str(x.dtype).removeprefix("torch.") for x in floats.values()})),
        "tensors": len(tensors),
        "wrapper": source.file.wrapper,
        "licence": source.licence,
    }


def converted(source: Source, layout: Layout) -> tuple[State, str | None]:
    """Their tensors and the entry they belong under, or what stands in the way."""
    ours, path = source.ours, source.file.path
    rows = layout.of_ours(ours)
    wanted = {key for row in rows for key in our_keys(row)}
    missing, homeless = sorted(wanted - ours.keys()), sorted(ours.keys() - wanted)
    if missing:
        raise UserError(
            f"{path} cannot be written as {layout.name}, which needs {missing[0]!r} too: it has no such part."
        )
    if homeless and not headless(source, layout, homeless):
        raise UserError(
            f"{path} cannot be written as {layout.name}, which has no place for {homeless[0]!r}."
        )
    kind = source.net.kwargs.get("positions", "sincos")
    if layout.positions and kind not in layout.positions:
        raise UserError(
            f"{path} has positions {kind}, and {layout.name} only {' or '.join(layout.positions)}."
        )
    number, width = source.net.kwargs.get("heads"), source.net.kwargs.get("dim")
    if number and width and heads(width, HEADS).get("heads") != number:
        log.info(f"note: no layout tells the number of heads: load it with heads={number}.")
    theirs = layout.to_theirs(ours)
    found = source.found
    if found is None or found.layout != layout:
        return {layout.prefix + key: x for key, x in theirs.items()}, layout.wrapper
    # Its own order, and no second names that it did not have.
    kept = {
        key: theirs[key[len(found.prefix) :]]
        for key in source.file.tensors
        if key.startswith(found.prefix)
    }
    return kept, source.file.wrapper


def headless(source: Source, layout: Layout, homeless: list[str]) -> bool:
    """An encoder alone may be taken out of what is larger, which is said."""
    if not layout.name.endswith(("-encoder", "-s3d", "-finetuned")) or any(
        k.startswith("encoder.") for k in homeless
    ):
        return False
    log.info(f"{source.file.path}: {len(homeless)} tensors beside the encoder left out")
    return True


def with_flag(argv: list[str]) -> list[str]:
    """The file may stand without its flag: it is the word that no flag takes."""
    after = ["", *argv]
    free = [i for i, word in enumerate(argv) if not word.startswith("-") and after[i][:2] != "--"]
    free += [i for i, word in enumerate(argv) if not word.startswith("-") and after[i] == "--trust"]
    if len(free) != 1 or argv[free[0]] in ("true", "false"):
        return argv
    return [*argv[: free[0]], "--file", *argv[free[0] :]]


if __name__ == "__main__":
    from ssvid.cli import command

    command(weights, argv=with_flag(sys.argv[1:]))
