import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: also for the commands that tests start

from pathlib import Path

import pytest
import torch

from ssvid.log import show_log

torch.set_num_threads(1)

show_log()  # as commands do: tests read what is logged on standard error


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of clips, lists and cases beside the checkout; tests of it skip where it is absent."""
    folder = Path(os.environ.get("SSVID_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared material at {folder}: set SSVID_SHARED")
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small unlabelled clips."""
    from tests.helpers import squares, write_video

    folder = tmp_path_factory.mktemp("videos")
    for i in range(10):
        write_video(folder / f"{i}.mp4", squares(i))
    return folder
