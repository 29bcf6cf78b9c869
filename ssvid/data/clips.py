"""(epoch, row) -> the clips of one video. Every choice comes from the coordinates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssvid.data.augment import GEOMETRY_DRAWS, crops, geometry, recipe
from ssvid.data.decode import read, stamps
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess.flow import flow_file, need_flow, read_flow
from ssvid.data.samples import Samples
from ssvid.data.sampling import clip_times, near, positions
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.shapes import ClipSpec, Views


class Clips(Samples):
    """`clips[epoch, row]`. `evaluate`: n clips spread evenly, not augmented; a bad file is then not replaced.

    `crops`: of each of those, spread along the long side (clip 1's first); one is the centre.
    """

    def __init__(
        self,
        manifest: Manifest,
        views: Views,
        *,
        seed: int,
        short: str = "pad",  # pad | drop | error: a video shorter than its clip
        decoder: str = "pyav",  # pyav | torchcodec
        evaluate: int = 0,  # clips of a video; 0 = train
        crops: int = 1,  # of a clip, where evaluated
    ) -> None:
        shapes = {(spec.frames, spec.size) for spec in views.clips}
        if len(shapes) != 1:
            raise UserError(f"The views of a batch share frames and size; here: {views.clips}.")
        if any(spec.modality == "flow" for spec in views.clips):
            need_flow(manifest)
        self.manifest, self.views, self.seed, self.short = manifest, views, seed, short
        self.decoder, self.evaluate, self.crops = decoder, evaluate, crops
        self.recipe = recipe("none" if evaluate else views.augment)
        self.row: Sequence[int] = range(len(manifest))  # of each clip that is asked for
        self.at: Sequence[
            tuple[float, ...]
        ] = ()  # where it lies in its video, and in its frame; (): anywhere

    def files(self, row: int) -> list[Path]:
        """What the clips of a row of the manifest are read from."""
        seen = {spec.modality for spec in self.views.clips}
        flow = [flow_file(self.manifest, row)] if "flow" in seen else []
        return [*([self.manifest.path(row)] if "rgb" in seen else []), *flow]

    def _load(self, epoch: int, row: int) -> dict[str, Any]:
        path = self.manifest.path(row)
        table = stamps(path, self.manifest.rows[row].fps)
        starts = self._starts(epoch, row, table)
        cuts = [clip_times(spec, table, u, self.short, path) for spec, u in starts]
        clips: dict[int, list[Tensor]] = {}  # view -> its crops
        for modality in dict.fromkeys(spec.modality for spec, _ in starts):
            views = [view for view, (spec, _) in enumerate(starts) if spec.modality == modality]
            frames = self._frames(row, np.concatenate([cuts[view][0] for view in views]), modality)
            for view, part in zip(views, frames.chunk(len(views)), strict=True):
                clips[view] = self._cut(part, epoch, row, view)
        cut = [crop for view in range(len(starts)) for crop in clips[view]]
        return self._sample(torch.stack(cut), epoch, row, sum(padded for _, padded in cuts))

    def _frames(self, row: int, times: np.ndarray, modality: str) -> Tensor:
        """T C H W at these times: one pass through the file for all clips of one modality."""
        path, fps = self.manifest.path(row), self.manifest.rows[row].fps
        if modality == "flow":
            return read_flow(path, flow_file(self.manifest, row), times, fps)
        return read(path, times, fps, self.decoder)

    def _sample(self, clips: Tensor, epoch: int, index: int, padded: int = 0) -> dict[str, Any]:
        """`clips`: V C T H W."""
        return self.sample(epoch, index, clips=clips, padded=padded)

    def _starts(self, epoch: int, row: int, table: np.ndarray) -> list[tuple[ClipSpec, float]]:
        """Of each view: its clip, and where in the video it lies."""
        if self.evaluate:
            return [(spec, float(u)) for spec in self.views.clips for u in positions(self.evaluate)]
        moment, max_gap_s = self.views.group_of_clip, self.views.max_gap_s
        u = [float(uniform(self.seed, f"clip/{m}", epoch, row, 1)) for m in range(max(moment) + 1)]
        if (
            self.recipe.alike
            and float(uniform(self.seed, "alike", epoch, row, 1)) < self.recipe.alike
        ):
            u = [u[0]] * len(u)
        elif max_gap_s is not None:
            u = [
                u[0],
                *(near(self.views.clips[0], table, u[0], other, max_gap_s) for other in u[1:]),
            ]
        return [(spec, u[m]) for spec, m in zip(self.views.clips, moment, strict=True)]

    def _cut(self, frames: Tensor, epoch: int, row: int, view: int) -> list[Tensor]:
        size = self.views.clips[0].size
        if self.evaluate:
            return crops(frames, size, self.crops)
        stream = f"crop/{self.views.group_of_clip[view]}"
        return [
            geometry(
                frames, self.recipe, size, uniform(self.seed, stream, epoch, row, GEOMETRY_DRAWS)[0]
            )
        ]
