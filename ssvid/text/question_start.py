"""A run or a file of BLIP -> the text encoder and the decoder with which question answering begins.

A file of question answering has both. Of a retrieval net the text encoder begins both, as in BLIP:
the decoder has its weights, and a new head.
"""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from ssvid.encoder import Encoder
from ssvid.errors import UserError
from ssvid.log import log
from ssvid.text import create_tower
from ssvid.text.answering import STEM, load_answers
from ssvid.text.blip import AnswerDecoder, BlipText
from ssvid.text.joint_files import load_joint, require_blip_text
from ssvid.text.published import BLIP_TABLE, check_rows
from ssvid.weights.blip import describe_text
from ssvid.weights.files import read_weights
from ssvid.weights.layout import State
from ssvid.weights.published import PublishedFile, identify_file, select_under
from ssvid.weights.state_dict import load_state

Start = tuple[BlipText, AnswerDecoder]


def start_from(text: str, words: str | None, encoder: Encoder, smoothing: float) -> Start:
    """The two text nets of `text`, in training mode. A UserError if it has none that fit."""
    path = Path(text).expanduser()
    if path.is_dir() and (path / f"{STEM}.json").exists():
        space = load_answers(path)
        tower, decoder = space.tower, space.decoder
    else:
        published = identify_file(read_weights(path)) if path.is_file() else None
        read = None if published is None else READERS.get(published.net.objective or "")
        if read is None or published is None:
            tower, decoder = split_retrieval(text, words, encoder)
        else:
            tower, decoder = read(published, words)
    require_blip_text(tower, encoder.dim, text)
    decoder.smoothing = smoothing
    return tower.train(), decoder.train()


def read_published(published: PublishedFile, words: str | None) -> Start:
    """Of a file of BLIP's question answering."""
    published.require_complete()
    path = published.file.path
    tower = create_tower("blip_text", vocabulary=words, **describe_text(published.ours))
    assert isinstance(tower, BlipText)
    check_rows(published, words or "of this project", tower.pieces.size, BLIP_TABLE)
    decoder = AnswerDecoder(tower)
    load_state(tower, select_under(published.ours, "tower."), path)
    load_state(decoder, select_under(published.ours, "decoder."), path)
    return tower, decoder


def split_retrieval(text: str, words: str | None, encoder: Encoder) -> Start:
    """Of a retrieval net: its text encoder, without the map into the shared space."""
    trained = load_joint(text, words).tower
    source = require_blip_text(trained, encoder.dim, text)
    if not isinstance(source.project, nn.Linear):
        raise UserError(f"{text} has no text side that question answering can begin with.")
    kwargs = {**source.kwargs, "dim": None}
    tower = create_tower("blip_text", **kwargs)
    assert isinstance(tower, BlipText)
    tower.bert.load_state_dict(source.bert.state_dict())
    decoder = AnswerDecoder(tower)
    begun = begin_decoder(decoder, source)
    log.info(f"{text}: the text encoder, and {begun} tensors with which the decoder begins")
    return tower, decoder


def begin_decoder(decoder: AnswerDecoder, source: BlipText) -> int:
    """Copy the weights that have the same shape; a context of another width starts anew."""
    state: State = decoder.bert.state_dict()
    begun = 0
    for key, x in source.bert.state_dict().items():
        if state[key].shape == x.shape:
            state[key] = x
            begun += 1
    decoder.bert.load_state_dict(state)
    return begun


# Objective of a published file that holds both nets -> what reads them.
READERS: dict[str, Callable[[PublishedFile, str | None], Start]] = {"litevl_qa": read_published}
