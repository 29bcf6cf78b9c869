"""(epoch, row) -> the clips of one video.

Every random choice is drawn from the seed, the epoch and the row.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssvid.data.augment import GEOMETRY_DRAWS, crop_frames, cut_squares, get_recipe
from ssvid.data.decode import read, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess.flow import flow_file, need_flow, read_flow
from ssvid.data.samples import Samples
from ssvid.data.sampling import choose_near_position, clip_times, spread_positions
from ssvid.errors import UserError
from ssvid.randomness import uniform
from ssvid.shapes import ClipSpec, Views

# A uniform in [0, 1) that places a clip in its video, or one for each of its frames.
Position = float | np.ndarray


class Clips(Samples):
    """`clips[epoch, row]` is a sample with the clips of one video, uint8 `V C T H W`.

    In evaluation (`evaluate` > 0) the clips are spread evenly over the video and not augmented, and
    an unreadable file is reported instead of being replaced by another. Each clip then gives
    `crops` squares, spread along the long side (those of clip 1 first); one crop is the centre.
    Raises a UserError if the views differ in shape or if optical flow is needed and absent.
    """

    def __init__(
        self,
        manifest: Manifest,
        views: Views,
        *,
        seed: int,
        short: str = "pad",  # pad | drop | error: what to do with a video shorter than its clip
        decoder: str = "pyav",  # pyav | torchcodec
        evaluate: int = 0,  # clips per video; 0: training
        crops: int = 1,  # per clip, in evaluation
    ) -> None:
        shapes = {(spec.frames, spec.size) for spec in views.clips}
        if len(shapes) != 1:
            raise UserError(f"The views of a batch share frames and size; here: {views.clips}.")
        self.modalities = {spec.modality for spec in views.clips}
        if "flow" in self.modalities:
            need_flow(manifest)
        self.manifest, self.views, self.seed, self.short = manifest, views, seed, short
        self.decoder, self.evaluate, self.crops = decoder, evaluate, crops
        self.recipe = get_recipe("none" if evaluate else views.augment)
        self.row: Sequence[int] = range(len(manifest))  # of the manifest, for each sample
        # For each sample, numbers that say which part of its video it shows. Subclasses fill this
        # in, and each says what its numbers are (a second; a time and a box). It stays empty where
        # the views alone decide where clips lie.
        self.locations: Sequence[tuple[float, ...]] = ()

    def files(self, row: int) -> list[Path]:
        """The files that the clips of a row of the manifest are read from."""
        paths = []
        if "rgb" in self.modalities:
            paths.append(self.manifest.path(row))
        if "flow" in self.modalities:
            paths.append(flow_file(self.manifest, row))
        return paths

    def _load(self, epoch: int, row: int) -> dict[str, Any]:
        path = self.manifest.path(row)
        frame_times = read_timestamps(path, self.manifest.rows[row].fps)
        positions = self._choose_positions(epoch, row, frame_times)
        times_of_view: list[np.ndarray] = []
        views_of_modality: dict[str, list[int]] = {}
        n_padded = 0
        for view, (spec, u) in enumerate(positions):
            times, padded = clip_times(spec, frame_times, u, self.short, path)
            times_of_view.append(times)
            views_of_modality.setdefault(spec.modality, []).append(view)
            n_padded += padded
        crops_of_view: dict[int, list[Tensor]] = {}
        for modality, views in views_of_modality.items():
            times = np.concatenate([times_of_view[view] for view in views])
            frames = self._read_frames(row, times, modality)
            for view, clip in zip(views, frames.chunk(len(views)), strict=True):
                crops_of_view[view] = self._cut(clip, epoch, row, view)
        # In evaluation a view gives several crops, and those of view 0 come first.
        clips: list[Tensor] = []
        for view in range(len(positions)):
            clips += crops_of_view[view]
        return self._make_sample(torch.stack(clips), epoch, row, n_padded)

    def _read_frames(self, row: int, times: np.ndarray, modality: str) -> Tensor:
        """Frames `T C H W` at these times, in one pass for all clips of a modality."""
        path, fps = self.manifest.path(row), self.manifest.rows[row].fps
        if modality == "flow":
            return read_flow(path, flow_file(self.manifest, row), times, fps)
        return read(path, times, fps, self.decoder)

    def _make_sample(
        self, clips: Tensor, epoch: int, index: int, padded: int = 0
    ) -> dict[str, Any]:
        """`clips`: V C T H W. `padded`: how many of them repeat their last frame."""
        return self.sample(epoch, index, clips=clips, padded=padded)

    def _choose_positions(
        self, epoch: int, row: int, frame_times: np.ndarray
    ) -> list[tuple[ClipSpec, Position]]:
        """For each view its clip, and what places it in the video."""
        if self.evaluate:
            positions = spread_positions(self.evaluate).tolist()
            return list(product(self.views.clips, positions))
        groups = self.views.group_of_clip
        u = self._draw_positions(max(groups) + 1, epoch, row, frame_times)
        if self.recipe.alike and self._draw("alike", epoch, row) < self.recipe.alike:
            u = [u[0]] * len(u)
        return [(spec, u[group]) for spec, group in zip(self.views.clips, groups, strict=True)]

    def _draw_positions(
        self, groups: int, epoch: int, row: int, frame_times: np.ndarray
    ) -> Sequence[Position]:
        """The position of each group of clips."""
        spec, max_gap_s = self.views.clips[0], self.views.max_gap_s
        if self.views.middle_clip:
            return spread_positions(1).tolist() * groups
        if self.views.independent_frames:
            draws = []
            for group in range(groups):
                u_of_frames = uniform(self.seed, f"frames/{group}", epoch, row, spec.frames)
                draws.append(u_of_frames[0].numpy())
            return draws
        u = []
        for group in range(groups):
            u.append(self._draw(f"clip/{group}", epoch, row))
        if max_gap_s is not None:
            for group in range(1, groups):
                u[group] = choose_near_position(spec, frame_times, u[0], u[group], max_gap_s)
        return u

    def _draw(self, stream: str, epoch: int, row: int) -> float:
        return float(uniform(self.seed, stream, epoch, row, 1))

    def _cut(self, frames: Tensor, epoch: int, row: int, view: int) -> list[Tensor]:
        """The crops of one view: `crops` squares in evaluation, a single random one in training."""
        size = self.views.clips[0].size
        if self.evaluate:
            return cut_squares(frames, size, self.crops)
        stream = f"crop/{self.views.group_of_clip[view]}"
        draws = uniform(self.seed, stream, epoch, row, GEOMETRY_DRAWS)[0]
        return [crop_frames(frames, self.recipe, size, draws)]
