"""a run folder or a published file -> the net of an earlier stage, with what lay beside it: heads, in our own names."""

import sys
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ssvid.encoder import Encoder
from ssvid.engine.checkpoint import RunFolder
from ssvid.errors import UserError
from ssvid.weights import fit, load_encoder, open_published
from ssvid.weights.layout import State


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
        part = {key.removeprefix(f"{name}."): x for key, x in self.state.items() if key.startswith(f"{name}.")}
        if not part:
            raise UserError(
                f"{self.path} holds no {name}: name the folder of a run of infonce or coclr, or their file."
            )
        try:
            fit(module, part, self.path)
        except UserError as error:
            if name != "head":
                raise
            raise UserError(f"{self.path} has a head of another width: give its --objective.dim. ({error})") from error


def earlier(path: str, flag: str) -> Earlier:
    """`flag`: what the user gave the path by."""
    given = Path(path)
    if not given.exists():
        raise UserError(f"{flag} {path} is not there: it is the folder of an earlier run, or a published file.")
    if given.is_file():
        encoder, state = open_published(given)
        return Earlier(path, encoder, state, None)
    whole = RunFolder(given).readable(f"{flag} {path}")
    encoder, steps = load_encoder(given), whole["config"].get("steps")
    if steps and whole["step"] < steps:
        print(f"warning: {flag} {path} stands at step {whole['step']} of its {steps}.", file=sys.stderr)
    return Earlier(path, encoder, whole["model"], encoder.spec.modality)
