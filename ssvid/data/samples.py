"""(epoch, row) -> one sample, or that of another row where a file is bad: what every data set to train on is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ssvid.data.manifest import Manifest
from ssvid.data.sampling import ShortVideo, words
from ssvid.errors import DecodeError, UserError
from ssvid.randomness import uniform
from ssvid.shapes import Batch, Views

TRIES = 10  # other rows tried for a bad file
STACKED = "clips", "features", "video_padding_mask"  # alike in every sample
FILLED = "spans_s", "span_fractions"  # one row for each sentence


class Bad(NamedTuple):
    path: str
    time: float | None
    why: str


class Samples(Dataset[Any], ABC):
    """`samples[epoch, row]`. `evaluate`: no choice is left to chance, and a bad file is not replaced."""

    manifest: Manifest
    views: Views
    seed: int
    evaluate: int = 0
    row: Sequence[int]  # of the manifest, of each sample that is asked for

    @abstractmethod
    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        """One sample, or a DecodeError."""

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        bad: list[Bad] = []
        dropped = 0
        for row in [index] if self.evaluate else self._candidates(epoch, index):
            try:
                return {
                    **self._load(epoch, row),
                    "bad_files": bad,
                    "dropped": dropped,
                    "readable": True,
                }
            except ShortVideo:
                dropped += 1
            except DecodeError as error:
                bad.append(Bad(error.path, error.time, error.why))
        if self.evaluate:
            return {
                "index": index,
                "epoch": epoch,
                "bad_files": bad,
                "dropped": dropped,
                "padded": 0,
                "readable": False,
            }
        raise UserError(self._no_clip(row, bad, dropped))

    def sample(self, epoch: int, index: int, **parts: Any) -> dict[str, Any]:
        """The parts with all that tells whose they are."""
        row = self.row[index]
        whose = {"label": int(self.manifest.labels[row]), "video_id": self.manifest.video_id(row)}
        return {"index": index, "epoch": epoch, "padded": 0, **whose, **parts}

    def _no_clip(self, row: int, bad: list[Bad], dropped: int) -> str:
        takes = " or ".join(dict.fromkeys(words(spec) for spec in self.views.clips))
        if not bad:
            return (
                f"{dropped} videos in a row are shorter than the clip ({takes}), the last is "
                f"{self.manifest.path(row)}: take a shorter clip, or --short_videos pad."
            )
        short = f" ({dropped} are shorter than the clip, {takes})" if dropped else ""
        return (
            f"{TRIES + 1} files in a row gave no clip{short}, the last bad one is {bad[-1].path}: {bad[-1].why}. "
            + (
                ""
                if "ssvid." in bad[-1].why
                else "Check the files with ssvid.data.preprocess.prepare --scan_only."
            )
        )

    def _candidates(self, epoch: int, index: int) -> list[int]:
        others = uniform(self.seed, "replace", epoch, index, TRIES)[0] * len(self)
        return [index, *others.long().tolist()]


def collate(samples: Sequence[dict[str, Any]], seed: int) -> Batch:
    """Good samples stacked; `ok`, `bad`, `padded` and `dropped` tell of all. No `clips` where none is good."""
    good = [sample for sample in samples if sample["readable"]]
    batch: Batch = {
        "index": torch.tensor([sample["index"] for sample in good], dtype=torch.int64),
        "epoch": torch.tensor([sample["epoch"] for sample in good], dtype=torch.int64),
        "label": torch.tensor([sample["label"] for sample in good], dtype=torch.int64),
        "video_id": [sample["video_id"] for sample in good],
        "seed": seed,
        "readable": torch.tensor([sample["readable"] for sample in samples]),
        "bad_files": [bad for sample in samples for bad in sample["bad_files"]],
        "padded": sum(sample["padded"] for sample in samples),
        "dropped": sum(sample["dropped"] for sample in samples),
    }
    parts: dict[str, Any] = batch  # type: ignore[assignment]  # keys by name
    for key in STACKED:
        if good and key in good[0]:
            parts[key] = torch.stack([sample[key] for sample in good])
    if good and "sentences" in good[0]:
        batch["sentences"] = [sample["sentences"] for sample in good]
    if good and "spans_s" in good[0]:
        counts = torch.tensor([len(sample["sentences"]) for sample in good])
        batch["text_padding_mask"] = torch.arange(int(counts.max())) >= counts[:, None]  # B K
        for key in FILLED:
            parts[key] = filled([sample[key] for sample in good], int(counts.max()))
    return batch


def filled(rows: Sequence[Tensor], n: int) -> Tensor:
    """Each with its last row repeated to n rows, stacked."""
    last = pad_sequence([row[-1:].expand(n, *row.shape[1:]) for row in rows], batch_first=True)
    for place, row in zip(last, rows, strict=True):
        place[: len(row)] = row
    return last
