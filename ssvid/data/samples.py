"""(epoch, row) -> one sample, or that of another row where a file is bad.

`Samples` is the base class of every data set to train on, and `collate` makes a batch of samples.
"""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ssvid.commands import phrase_command
from ssvid.data.manifest import Manifest
from ssvid.data.sampling import ShortVideo, describe_frames
from ssvid.errors import DecodeError, UserError
from ssvid.randomness import uniform
from ssvid.shapes import Batch, Views

TRIES = 10  # other rows that are tried in place of a bad file
STACKED = "clips", "features", "video_padding_mask"  # of the same shape in every sample
PADDED = "spans_s", "span_fractions"  # one row for each sentence
COORDINATES = "index", "epoch", "label"


class Bad(NamedTuple):
    path: str
    time: float | None
    why: str


class Samples(Dataset[Any], ABC):
    """`samples[epoch, row]` is one sample, a dict of the keys of Batch.

    In training an unreadable file is replaced by another row. With `evaluate` > 0 no choice is
    random and a bad file is reported as unreadable. A UserError is raised if `TRIES + 1` files in a
    row give no sample.
    """

    manifest: Manifest
    views: Views
    seed: int
    evaluate: int = 0
    row: Sequence[int]  # of the manifest, for each sample

    @abstractmethod
    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        """One sample, or a DecodeError."""

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def members(self) -> Mapping[str, Sequence[int]]:
        """The samples of each part of a mixture. Other data have one entry, without a name."""
        if self.manifest.mixture is None:
            return {"": range(len(self))}
        members = {}  # arrays, which are smaller than lists of numbers
        for name in self.manifest.mixture.names:
            members[name] = array("q")
        for index, row in enumerate(self.row):
            members[self.manifest.rows[row].source].append(index)
        return members

    def find_source(self, index: int) -> str:
        """The part of a mixture that a sample comes from; an empty text if the data are none."""
        return self.manifest.rows[self.row[index]].source

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        bad: list[Bad] = []
        dropped = 0
        for row in [index] if self.evaluate else self._candidates(epoch, index):
            try:
                sample = self._load(epoch, row)
            except ShortVideo:
                dropped += 1
            except DecodeError as error:
                bad.append(Bad(error.path, error.time, error.why))
            else:
                return {**sample, "bad_files": bad, "dropped": dropped, "readable": True}
        if self.evaluate:
            sample = {"index": index, "epoch": epoch, "padded": 0}
            return {**sample, "bad_files": bad, "dropped": dropped, "readable": False}
        raise UserError(self._no_clip(row, bad, dropped))

    def sample(self, epoch: int, index: int, **values: Any) -> dict[str, Any]:
        """The values with the coordinates, label and video id of the sample."""
        row = self.row[index]
        sample: dict[str, Any] = {"index": index, "epoch": epoch, "padded": 0}
        sample["label"] = int(self.manifest.labels[row])
        if self.manifest.mixture is not None:
            sample["source"] = self.manifest.rows[row].source
        return {**sample, "video_id": self.manifest.video_id(row), **values}

    def _no_clip(self, row: int, bad: list[Bad], dropped: int) -> str:
        clip = " or ".join(dict.fromkeys(describe_frames(spec) for spec in self.views.clips))
        if not bad:
            return (
                f"{dropped} videos in a row are shorter than the clip ({clip}), the last is "
                f"{self.manifest.path(row)}: take a shorter clip, or --short_videos pad."
            )
        short = f" ({dropped} are shorter than the clip, {clip})" if dropped else ""
        advice = (
            f"Check the files with `{phrase_command('prepare')} --source {self.manifest.root} "
            "--scan_only`."
        )
        return (
            f"{TRIES + 1} files in a row gave no clip{short}, the last bad one is {bad[-1].path}: "
            f"{bad[-1].why}. {'' if 'ssvid.' in bad[-1].why else advice}"
        )

    def _candidates(self, epoch: int, index: int) -> list[int]:
        """The row, and the rows to try in its place, which are of the same part of a mixture."""
        others = self.members[self.find_source(index)]
        chosen = (uniform(self.seed, "replace", epoch, index, TRIES)[0] * len(others)).long()
        return [index, *(int(others[i]) for i in chosen.tolist())]


def collate(samples: Sequence[dict[str, Any]], seed: int) -> Batch:
    """A batch of the readable samples.

    `readable`, `bad_files`, `padded` and `dropped` describe all samples. There are no `clips` where
    no sample is readable.
    """
    good = [sample for sample in samples if sample["readable"]]
    batch: Batch = {
        "video_id": _values(good, "video_id"),
        "seed": seed,
        "readable": torch.tensor(_values(samples, "readable")),
        "bad_files": [],
        "padded": sum(_values(samples, "padded")),
        "dropped": sum(_values(samples, "dropped")),
    }
    for sample in samples:
        batch["bad_files"] += sample["bad_files"]
    values: dict[str, Any] = batch  # type: ignore[assignment]  # keys by name
    for key in COORDINATES:
        values[key] = torch.tensor(_values(good, key), dtype=torch.int64)
    for key in STACKED:
        if good and key in good[0]:
            values[key] = torch.stack(_values(good, key))
    if good and "source" in good[0]:
        batch["source"] = _values(good, "source")
    if good and "sentences" in good[0]:
        batch["sentences"] = _values(good, "sentences")
    if good and "questions" in good[0]:
        batch["questions"] = _values(good, "questions")
    if good and "spans_s" in good[0]:
        counts = torch.tensor(list(map(len, batch["sentences"])))
        batch["text_padding_mask"] = torch.arange(int(counts.max())) >= counts[:, None]  # B K
        for key in PADDED:
            values[key] = pad_rows(_values(good, key), int(counts.max()))
    return batch


def _values(samples: Sequence[dict[str, Any]], key: str) -> list[Any]:
    return [sample[key] for sample in samples]


def pad_rows(tables: Sequence[Tensor], n: int) -> Tensor:
    """Tables `K *` stacked to `B n *`, each with its last row repeated to n rows."""
    last_rows = [table[-1:].expand(n, *table.shape[1:]) for table in tables]
    padded = pad_sequence(last_rows, batch_first=True)
    for target, table in zip(padded, tables, strict=True):
        target[: len(table)] = table
    return padded
