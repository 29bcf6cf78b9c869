"""Numbers and pictures of a step -> metrics.jsonl and TensorBoard."""

import json
from pathlib import Path

from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ssvid.engine.checkpoint import LOG, read_log
from ssvid.errors import RunError
from ssvid.files import write_text_whole
from ssvid.shapes import Clip, Views


class Metrics:
    """Writes one JSON line per logged step, and the same numbers to TensorBoard.

    After a resume the lines beyond the checkpoint are cut. A full disk raises a RunError.
    """

    def __init__(self, out: Path, step: int) -> None:
        path = out / LOG
        rows = read_log(out)
        lines = path.read_bytes().splitlines() if path.exists() else []
        valid = [row for row in rows if row["step"] <= step]
        if len(valid) < len(lines):
            write_text_whole(path, "".join(json.dumps(row) + "\n" for row in valid))
        # Open for the whole run and unbuffered, so that each line is on disk at once.
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        try:
            self.file.write((json.dumps({"step": step, **numbers}) + "\n").encode())
        except OSError as error:
            raise RunError(
                f"{self.file.name} could not be written: {error.strerror}. Free some space."
            ) from error
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Tensor) -> None:
        self.board.add_image(name, picture.cpu(), step)

    def close(self) -> None:
        self.file.close()
        self.board.close()


def draw_clips(clips: Clip, views: Views) -> UInt8[Tensor, "3 h w"]:
    """Clips as the encoder gets them: a row for each clip, frames side by side."""
    mean, std = (clips.new_tensor(v).view(-1, 1, 1, 1) for v in (views.mean, views.std))
    strip = rearrange(clips * std + mean, "B C T H W -> C (B H) (T W)")
    return (strip.clamp(0, 1) * 255).byte()
