"""A run folder, a checkpoint or a published file -> the weights that a new run begins with: the only place for that."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import RunFolder
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.objective import Objective
from ssvid.weights.encoders import licence_of_run, load_encoder, open_published
from ssvid.weights.files import read
from ssvid.weights.layout import State
from ssvid.weights.published import Found, differing, find, is_run, unknown
from ssvid.weights.state_dict import fit, read_card


def warm_start(objective: Objective, path: str) -> None:
    """An encoder, published or exported, into every one that the objective exports; or a checkpoint into all of it.

    A published pretraining checkpoint fills the whole objective where its decoder fits as well. The licence goes along.
    """
    file = (
        None
        if Path(path).is_dir() or read_card(Path(path).with_suffix(".json"))
        else read(Path(path))
    )
    found = find(file) if file else None
    if found is not None:
        start_from_published(objective, found)
        licence = found.licence
    elif file is not None:
        fit(objective, file.tensors, path)
        licence = licence_of_run(Path(path))
    else:
        stranger = load_encoder(path)
        licence = stranger.licence
        for encoder in objective.exported_encoders().values():
            fit(encoder, stranger.state_dict(), path, name=encoder.name)
        objective.on_weights_loaded()
    for encoder in objective.exported_encoders().values():
        encoder.licence = licence


def start_from_published(objective: Objective, found: Found) -> None:
    """Refused where an encoder was built otherwise than the published one: shapes alone do not tell."""
    found.whole()
    path, state = found.file.path, found.encoder()
    if found.net.encoder is None:
        fit(objective, found.ours, path)
        log.info(f"{path}: {found.what}; starting from the whole objective")
        return
    for encoder in objective.exported_encoders().values():
        if wrong := differing(found, encoder.name, encoder.kwargs):
            raise UserError(f"{path} is {found.what}: start it with --encoder.{wrong}.")
        fit(encoder, state, path, name=encoder.name)
    own = objective.state_dict()
    if own.keys() == found.ours.keys() and all(
        own[k].shape == x.shape for k, x in found.ours.items()
    ):
        objective.load_state_dict(found.ours)
        said = "the whole objective"
    else:
        objective.on_weights_loaded()
        said = "the encoder alone; what is beside it there does not fit or is not used"
    log.info(f"{path}: {found.what}; starting from {said}; licence {found.licence or 'not stated'}")


def objective_state(path: str, flag: str) -> State:
    """The state dict of a whole objective, in our names: of a run folder, a checkpoint or a published file.

    `flag`: what the user gave the path by, for the message.
    """
    folder = RunFolder(path)
    if folder.path.is_dir():
        return dict(folder.readable(f"{flag} {path}")["model"])
    file = read(folder.path)
    if is_run(file):
        return file.tensors
    found = find(file)
    if found is None:
        raise unknown(file)
    found.whole()
    return found.ours


class Earlier(NamedTuple):
    path: str
    encoder: Encoder
    state: State  # of the whole objective: `encoder.*`, `head.*`, ...
    modality: str | None  # that it sees; a published file does not tell

    def into(self, encoder: Encoder, head: nn.Module) -> None:
        """To begin with; the licence of what was learnt goes along."""
        if self.modality not in (None, encoder.spec.modality):
            raise UserError(
                f"{self.path} was trained on {self.modality}, and this run on {encoder.spec.modality}: give "
                f"--clip.modality {self.modality}, or name another."
            )
        self.fill(encoder, "encoder")
        self.fill(head, "head")
        encoder.licence = self.encoder.licence

    def fill(self, module: nn.Module, name: str) -> None:
        """The module of this name there, whole."""
        part = {
            key.removeprefix(f"{name}."): x
            for key, x in self.state.items()
            if key.startswith(f"{name}.")
        }
        if not part:
            raise UserError(
                f"{self.path} holds no {name}: name the folder of a run of infonce or coclr, or their file."
            )
        try:
            fit(module, part, self.path, name=self.encoder.name if name == "encoder" else None)
        except UserError as error:
            if name != "head":
                raise
            raise UserError(
                f"{self.path} has a head of another width: give its --objective.dim. ({error})"
            ) from error


def earlier(path: str, flag: str) -> Earlier:
    """`flag`: what the user gave the path by."""
    given = Path(path)
    if not given.exists():
        raise UserError(
            f"{flag} {path} is not there: it is the folder of an earlier run, or a published file."
        )
    if given.is_file():
        encoder, state = open_published(given)
        return Earlier(path, encoder, state, None)
    whole = RunFolder(given).readable(f"{flag} {path}")
    encoder, steps = load_encoder(given), whole["config"].get("steps")
    if steps and whole["step"] < steps:
        log.warning(f"{flag} {path} stands at step {whole['step']} of its {steps}.")
    return Earlier(path, encoder, whole["model"], encoder.spec.modality)
