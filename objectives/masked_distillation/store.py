"""A folder with the teacher's targets of clips that are the same in every epoch.

Each clip goes through the teacher alone, in float32, and its targets are rounded to float16 before
they are used. So a step has the same numbers whether its targets were stored before or not, and
whatever other clips are in its batch.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectives.masked_distillation.teacher import Targets, Teacher
from ssvid.data.augment import get_recipe
from ssvid.data.manifest import Manifest
from ssvid.errors import UserError
from ssvid.files import locked, remove_leftovers, write_json_whole, write_whole
from ssvid.shapes import Batch, Clip, Views
from ssvid.weights.state_dict import hash_weights

FLAG = "--objective.targets"
CARD = "targets.json"
FAULTS = (OSError, ValueError, EOFError, SyntaxError)  # what numpy raises for damaged files


def check_views(views: Views) -> None:
    """Raise a UserError if a video's clip is not the same in every epoch."""
    recipe = get_recipe(views.augment)
    is_fixed = recipe.crop in ("centre", "whole") and not recipe.flip and not recipe.colours
    if not is_fixed or not views.middle_clip:
        raise UserError(
            f"{FLAG} stores what the teacher sees in a clip, so the clip has to be the same in "
            "every epoch: give --objective.augment none and --objective.middle true, or leave "
            f"{FLAG} out."
        )
    if views.clips[0].modality != "rgb":
        raise UserError(f"{FLAG} stores targets of rgb clips alone: leave it out.")


class TargetStore:
    """`root / HASH / xx / HASH.npy`: the first hash is of the teacher and of how clips are cut.

    The second is of the video's file: its path, size and time of change. A file is written under
    another name and renamed, so several processes and runs can share a folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        nearest = self.root.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(
                f"{FLAG} {self.root} cannot be written, for {nearest} is no folder that you may "
                "write to: name another place."
            )
        self.data: Manifest | None = None
        self.views: Views | None = None
        self.folder: Path | None = None  # known once the first clip has come

    def read_from(self, data: Manifest, views: Views) -> None:
        """Say which videos the rows of a batch are. A UserError if their clips change."""
        check_views(views)
        self.data, self.views, self.folder = data, views, None

    def find(self, batch: Batch, clip: Clip, teacher: Teacher) -> Targets:
        """The targets of the clips: stored ones, and new ones where a clip has none yet."""
        if self.folder is None:
            self.folder = self.open(teacher, clip)
        sizes = (teacher.encoder.grid(*clip.shape[2:]).n, teacher.encoder.dim, teacher.pooled_dim)
        tables = []
        for row, index in enumerate(batch["index"].tolist()):
            path = self.folder / self.name_file(index)
            table = read_table(path, sizes)
            if table is None:
                table = make_table(teacher, clip[row : row + 1])
                with locked(self.folder / "lock", wait=True, what=f"{FLAG} {self.root}"):
                    write_table(path, table)
            tables.append(table)
        return split_tables(torch.from_numpy(np.stack(tables)), sizes, clip)

    def open(self, teacher: Teacher, clip: Clip) -> Path:
        """The folder of this teacher and these clips, which is made if there is none."""
        if self.views is None:
            raise UserError(f"{FLAG} needs to know the videos of a batch: call check_data first.")
        settings: dict[str, Any] = {"clip": vars(self.views.clips[0]).copy()}
        settings |= {"shape": list(clip.shape[1:]), "augment": self.views.augment}
        settings |= {"mean": list(self.views.mean), "std": list(self.views.std)}
        name = hash_weights(teacher, settings)
        folder = self.root / name
        with locked(folder / "lock", wait=True, what=f"{FLAG} {self.root}"):
            remove_leftovers(folder)
            card = {"teacher": teacher.encoder.name, **settings}
            write_json_whole(folder / CARD, card, end="\n", indent=1)
        return folder

    def name_file(self, index: int) -> str:
        """The file of a row's targets. Another content of the video has another name."""
        assert self.data is not None  # `open` refuses to go on without
        path, fps = os.path.realpath(self.data.path(index)), self.data.rows[index].fps
        state = os.stat(path)
        content = repr((path, state.st_size, state.st_mtime_ns, fps))
        digest = hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()
        return f"{digest[:2]}/{digest[:32]}.npy"


def make_table(teacher: Teacher, clip: Clip) -> np.ndarray:
    """The numbers of one clip in a row: its tokens, then its pooled vector."""
    with torch.autocast(clip.device.type, enabled=False):
        tokens, pooled = teacher(clip)
    return torch.cat([tokens.flatten(), pooled.flatten()]).half().cpu().numpy()


def read_table(path: Path, sizes: tuple[int, int, int]) -> np.ndarray | None:
    """A stored row; None if there is none, or if its file is damaged: it is made again."""
    try:
        table = np.load(path, allow_pickle=False)
    except FAULTS:
        return None
    n, dim, pooled_dim = sizes
    is_whole = isinstance(table, np.ndarray) and table.dtype == np.float16
    return table if is_whole and table.shape == (n * dim + pooled_dim,) else None


def write_table(path: Path, table: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    write_whole(path, lambda file: np.save(file, table))


def split_tables(tables: Tensor, sizes: tuple[int, int, int], clip: Clip) -> Targets:
    n, dim, pooled_dim = sizes
    rows = tables.to(clip.device).to(clip.dtype)
    tokens, pooled = rows.split([n * dim, pooled_dim], 1)
    return Targets(tokens.view(len(rows), n, dim), pooled)
