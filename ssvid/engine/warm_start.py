"""A run folder, a checkpoint or a published file -> the weights that a new run starts with."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import RunFolder
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.objective import Objective
from ssvid.weights.encoders import load_encoder, load_published, read_run_licence
from ssvid.weights.files import read_weights
from ssvid.weights.layout import State
from ssvid.weights.published import (
    PublishedFile,
    find_difference,
    identify_file,
    is_run_checkpoint,
    unknown_layout_error,
)
from ssvid.weights.state_dict import load_state, read_card


def warm_start(objective: Objective, path: str) -> None:
    """Load weights into an objective: `--init PATH`.

    A published or exported encoder goes into every encoder that the objective exports, and a
    checkpoint of a run into the whole objective. A published pretraining checkpoint also fills the
    whole objective if all of it fits. The encoders get the licence of the weights. A UserError if
    the weights do not fit.
    """
    is_export = Path(path).is_dir() or read_card(Path(path).with_suffix(".json"))
    file = None if is_export else read_weights(Path(path))
    published = identify_file(file) if file else None
    if published is not None:
        start_from_published(objective, published)
        licence = published.licence
    elif file is not None:
        load_state(objective, file.tensors, path)
        licence = read_run_licence(Path(path))
    else:
        exported = load_encoder(path)
        licence = exported.licence
        for encoder in objective.exported_encoders().values():
            start_encoder(encoder, dict(exported.state_dict()), path)
        objective.on_weights_loaded()
    for encoder in objective.exported_encoders().values():
        encoder.licence = licence


def start_from_published(objective: Objective, published: PublishedFile) -> None:
    """Load a published checkpoint.

    Raises a UserError if an encoder has other arguments than the published one, because equal
    shapes do not prove that two nets are the same.
    """
    published.require_complete()
    path, state = published.file.path, published.encoder_state()
    if published.net.encoder is None:
        load_state(objective, published.ours, path)
        log.info(f"{path}: {published.description}; starting from the whole objective")
        return
    for encoder in objective.exported_encoders().values():
        if argument := find_difference(published, encoder.name, encoder.kwargs):
            raise UserError(
                f"{path} is {published.description}: start it with --encoder.{argument}."
            )
        start_encoder(encoder, state, path)
    shapes = {key: x.shape for key, x in objective.state_dict().items()}
    if shapes == {key: x.shape for key, x in published.ours.items()}:
        objective.load_state_dict(published.ours)
        start = "the whole objective"
    else:
        objective.on_weights_loaded()
        start = "the encoder alone; the other weights of the file do not fit or are not used"
    licence = published.licence or "not stated"
    log.info(f"{path}: {published.description}; starting from {start}; licence {licence}")


def start_encoder(encoder: Encoder, state: State, path: str | Path) -> None:
    """Load the weights of an encoder, or of the picture net that it is built around.

    Its new parts keep their random weights where the state lacks all of them; this is logged. A
    UserError if the state does not fit otherwise.
    """
    parts = encoder.new_parts
    lacks_parts = bool(parts) and not any(key.startswith(parts) for key in state)
    state = encoder.rename_published(state)
    if lacks_parts:
        # A picture net may name the weights from which some of the new parts begin.
        new = {}
        for key, x in encoder.state_dict().items():
            if key.startswith(parts) and key not in state:
                new[key] = x
        state = {**state, **new}
        log.info(f"{path}: {len(new)} tensors of {encoder.name} are new ({', '.join(parts)})")
    load_state(encoder, state, path, name=encoder.name)


def objective_state(path: str, flag: str) -> State:
    """The state dict of a whole objective under our names.

    `path`: a run folder, a checkpoint or a published file. `flag`: the flag that named it, for the
    UserError if it cannot be read.
    """
    folder = RunFolder(path)
    if folder.path.is_dir():
        return dict(folder.read_newest(f"{flag} {path}")["model"])
    file = read_weights(folder.path)
    if is_run_checkpoint(file):
        return file.tensors
    published = identify_file(file)
    if published is None:
        raise unknown_layout_error(file)
    published.require_complete()
    return published.ours


class EarlierRun(NamedTuple):
    """The encoder and head of an earlier run, for an objective that continues from it."""

    path: str
    encoder: Encoder
    state: State  # of the whole objective: `encoder.*`, `head.*`, ...
    modality: str | None  # rgb or flow; None for a published file, which does not record it

    def load_into(self, encoder: Encoder, head: nn.Module) -> None:
        """Load the weights of the encoder and head. The encoder gets their licence.

        Raises a UserError if the modality or a shape differs.
        """
        if self.modality not in (None, encoder.spec.modality):
            raise UserError(
                f"{self.path} was trained on {self.modality}, and this run on "
                f"{encoder.spec.modality}: give --clip.modality {self.modality}, or name another."
            )
        self.load_module(encoder, "encoder")
        self.load_module(head, "head")
        encoder.licence = self.encoder.licence

    def load_module(self, module: nn.Module, name: str) -> None:
        """Load the weights whose keys begin with `name`."""
        state = {}
        for key, x in self.state.items():
            if key.startswith(f"{name}."):
                state[key.removeprefix(f"{name}.")] = x
        if not state:
            raise UserError(
                f"{self.path} holds no {name}: name the folder of a run of infonce or coclr, or "
                "their file."
            )
        try:
            load_state(
                module, state, self.path, name=self.encoder.name if name == "encoder" else None
            )
        except UserError as error:
            if name != "head":
                raise
            raise UserError(
                f"{self.path} has a head of another width: give its --objective.dim. ({error})"
            ) from error


def load_earlier_run(path: str, flag: str) -> EarlierRun:
    """Load a run folder or a published file. `flag`: the flag that named it, for a UserError."""
    source = Path(path)
    if not source.exists():
        raise UserError(
            f"{flag} {path} is not there: it is the folder of an earlier run, or a published file."
        )
    if source.is_file():
        encoder, state = load_published(source)
        return EarlierRun(path, encoder, state, None)
    checkpoint = RunFolder(source).read_newest(f"{flag} {path}")
    encoder, steps = load_encoder(source), checkpoint["config"].get("steps")
    if steps and checkpoint["step"] < steps:
        log.warning(f"{flag} {path} stands at step {checkpoint['step']} of its {steps}.")
    return EarlierRun(path, encoder, checkpoint["model"], encoder.spec.modality)
