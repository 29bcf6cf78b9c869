import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from ssvid.data.datasets.folder import folder
from ssvid.data.datasets.frames import frames as frame_folders
from ssvid.data.decode import read, read_timestamps
from ssvid.data.manifest import Manifest
from ssvid.data.preprocess import flow as module
from ssvid.data.preprocess.flow import compute, flow_file, need_flow, quantise, read_flow
from ssvid.errors import DecodeError, UserError
from ssvid.shapes import Row
from tests.data.bars import VARIABLE
from tests.helpers import facts, for_each, squares, write_video


def moving(frames: int, right: int, down: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth pattern that moves this many pixels a frame, round and round."""
    rng = np.random.default_rng(0)
    waves = np.fft.fft2(rng.standard_normal((height, width)))
    waves[8:-7], waves[:, 8:-7] = 0, 0
    pattern = np.fft.ifft2(waves).real
    pattern = (128 + 100 * pattern / np.abs(pattern).max()).astype(np.uint8)
    turned = [np.roll(pattern, (down * t, right * t), (0, 1)) for t in range(frames)]
    return np.repeat(np.stack(turned)[..., None], 3, axis=3)


def write_pictures(path: Path, frames: np.ndarray) -> None:
    path.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{i + 1}.png")


def all_flow(data: Manifest, row: int = 0) -> torch.Tensor:
    video, fps = data.path(row), data.rows[row].fps
    return read_flow(video, flow_file(data, row), read_timestamps(video, fps)[:-1], fps)


def opencv_flow(video: Path) -> torch.Tensor:
    """T 3 H W by another way: all frames at once, straight from OpenCV's floats."""
    import cv2

    rgb = read(video, read_timestamps(video)).permute(0, 2, 3, 1).numpy()
    grays = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in rgb]
    planes = []
    for first, second in zip(grays[:-1], grays[1:], strict=True):
        flow_xy = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(
            first, second, None
        )
        u, v = (
            np.round((np.clip(flow_xy, -20, 20) + 20) * (255 / 40))
            .astype(np.uint8)
            .transpose(2, 0, 1)
        )
        planes.append(torch.from_numpy(np.stack([np.full_like(u, 128), v, u])))
    return torch.stack(planes)


@for_each("method", ["tvl1", "dis"])
@for_each("right, down", [(2, 0), (0, 2), (-3, 1)])
def test_motion_is_found_in_its_channel(tmp_path, method, right, down):
    write_video(tmp_path / "in/a.mp4", moving(4, right, down))
    data = folder(str(tmp_path / "in"))
    compute(data, method=method, workers=1)
    planes = all_flow(data)[:, :, 12:-12, 12:-12].float()
    assert (planes[:, 0] == 128).all()
    down_found, right_found = (
        planes[:, c].flatten(1).median(1).values * 40 / 255 - 20 for c in (1, 2)
    )
    assert right_found == pytest.approx([right] * 3, abs=0.25)
    assert down_found == pytest.approx([down] * 3, abs=0.25)


def test_bytes_of_flow():
    displacements = [
        0.0,
        20.0,
        -20.0,
        25.0,
        -1e6,
        10.0,
        -10.0,
        4.0,
        8.0,
        -16.0,
    ]  # the last two lie between two bytes
    flow = np.array(displacements, np.float32).reshape(1, 5, 2)
    assert quantise(flow).ravel().tolist() == [128, 255, 0, 255, 0, 191, 64, 153, 178, 26]


def test_what_is_read_is_what_opencv_found(three):
    compute(three, method="dis", workers=1)
    for row in range(3):
        assert all_flow(three, row).equal(opencv_flow(three.path(row)))
    assert [len(all_flow(three, row)) for row in range(3)] == [10, 6, 1]


@for_each("size", [(5, 7), (2, 3), (33, 18), (80, 106), (144, 192)])
def test_files_give_back_the_exact_bytes(tmp_path, monkeypatch, size):
    noise = np.random.default_rng(0).integers(0, 256, (4, *size, 2), dtype=np.uint8)
    monkeypatch.setattr(module, "_flows", lambda video, method, bound: iter(noise))
    write_video(tmp_path / "in/a.mp4", squares(0, frames=5))
    data = folder(str(tmp_path / "in"))
    compute(data, workers=1)
    planes = all_flow(data)
    assert planes[:, 1].equal(torch.from_numpy(noise[..., 1])) and planes[:, 2].equal(
        torch.from_numpy(noise[..., 0])
    )
    with av.open(str(flow_file(data, 0))) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def test_flow_begins_at_the_frame_that_is_shown(three, monkeypatch):
    compute(three, method="dis", workers=1)
    video, file, table = three.path(0), flow_file(three, 0), np.array(VARIABLE) - VARIABLE[0]
    assert read_timestamps(video) == pytest.approx(table + read_timestamps(video)[0], abs=1e-3)
    whole = all_flow(three)
    assert len({frame.numpy().tobytes() for frame in whole}) == len(
        whole
    )  # else any order would do
    table = read_timestamps(video)
    for i in range(len(table)):
        assert read_flow(video, file, [table[i].item()])[0].equal(whole[min(i, len(whole) - 1)])
    for near in (50, 1):  # read through, or jumped
        monkeypatch.setattr(module, "FAR", near)
        wanted = [7, 2, 2, 10, 0, 9]
        assert read_flow(video, file, table[wanted]).equal(whole[[7, 2, 2, 9, 0, 9]])
    later = table + 0.9 * np.diff(table, append=table[-1] + 0.1)  # still the same frames
    assert read_flow(video, file, later).equal(whole[[*range(10), 9]])
    assert read_flow(video, file, table - 0.5e-4).equal(whole[[*range(10), 9]])
    assert read_flow(video, file, [-5.0, 99.0]).equal(whole[[0, 9]])
    assert read_flow(video, file, table[:3]).stride() == read(video, table[:3]).stride()


def test_folders_of_pictures(tmp_path):
    write_pictures(tmp_path / "in/x/one", moving(12, 2, 0))  # 2.png comes before 10.png
    data = frame_folders(str(tmp_path / "in"), fps=12.5)
    assert compute(data, method="dis", workers=1)["made"] == 1
    planes = all_flow(data)
    assert planes.shape == (11, 3, 48, 64)
    assert planes[:, 2, 12:-12, 12:-12].float().flatten(1).median(1).values == pytest.approx(
        [140] * 11, abs=2
    )
    assert compute(data, method="dis", workers=1)["kept"] == 1
    Image.fromarray(moving(13, 2, 0)[12]).save(tmp_path / "in/x/one/13.png")
    assert compute(data, method="dis", workers=1)["made"] == 1 and len(all_flow(data)) == 12
    os.utime(tmp_path / "in/x/one/7.png", ns=(0, 2 * 10**18))
    assert compute(data, method="dis", workers=1)["made"] == 1


def test_blocks_do_not_show(three, monkeypatch):
    compute(three, method="dis", workers=1)
    once = [flow_file(three, row).read_bytes() for row in range(3)]
    monkeypatch.setattr(module, "BLOCK", 1.0)  # two frames at once
    monkeypatch.setenv("SSVID_FLOW", str(three.root.parent / "flow"))
    assert compute(three, method="dis", workers=1)["made"] == 3
    assert [flow_file(three, row).read_bytes() for row in range(3)] == once


@for_each("share", [0.0, 0.3, 0.7, 0.98])
def test_a_torn_file_is_a_fault_when_read_and_made_anew(three, share):
    compute(three, method="dis", workers=1)
    file, video = flow_file(three, 0), three.path(0)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DecodeError, match=facts("ssvid.data.flow")) as error:
        read_flow(video, file, read_timestamps(video))
    assert error.value.path == str(video)
    again = compute(three, method="dis", workers=1)
    assert (again["made"], again["kept"]) == (1, 2) and file.read_bytes() == whole


def test_no_changed_byte_gives_a_wrong_picture(three):
    """The decoder alone paints over such places."""
    compute(three, method="dis", workers=1)
    file, video = flow_file(three, 0), three.path(0)
    whole, right = file.read_bytes(), all_flow(three)
    rng = np.random.default_rng(0)
    faults = 0
    for position in rng.integers(len(whole) // 4, len(whole) * 3 // 4, 20):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 64]) + whole[position + 1 :])
        try:
            assert all_flow(three).equal(right)
        except DecodeError as error:
            assert error.path == str(video)
            faults += 1
    assert faults >= 18


def test_a_replaced_video_is_noticed(three):
    compute(three, method="dis", workers=1)
    video, file = three.path(1), flow_file(three, 1)
    write_video(video, squares(5, frames=6))
    with pytest.raises(DecodeError, match=facts("6", "5")):
        read_flow(video, file, [0.0])
    again = compute(three, method="dis", workers=1)
    assert (again["made"], again["kept"]) == (1, 2) and all_flow(three, 1).equal(opencv_flow(video))
    write_video(video, squares(6, frames=6))  # as long as before
    assert compute(three, method="dis", workers=1)["made"] == 1
    assert all_flow(three, 1).equal(opencv_flow(video))
    os.utime(video, ns=(0, 10**18))  # of the same size
    assert compute(three, method="dis", workers=1)["made"] == 1
    file.write_bytes(flow_file(three, 2).read_bytes())  # the flow of another video
    assert compute(three, method="dis", workers=1)["made"] == 1
    assert all_flow(three, 1).equal(opencv_flow(video))


def test_what_is_missing_is_said(three):
    with pytest.raises(UserError, match=facts(".flow", "ssvid.data.flow")):
        need_flow(three)
    compute(three, method="dis", workers=1)
    need_flow(three)
    flow_file(three, 1).unlink()
    with pytest.raises(DecodeError, match=facts("b.mp4.mkv", "ssvid.data.flow")):
        read_flow(three.path(1), flow_file(three, 1), [0.0])
    flow_file(three, 1).write_bytes(three.path(1).read_bytes())  # a video, but no flow
    with pytest.raises(DecodeError, match=facts("b.mp4.mkv", "Matroska")):
        read_flow(three.path(1), flow_file(three, 1), [0.0])


@for_each("block", [1.0, 64e6])
def test_a_picture_that_changes_its_size_is_bad(tmp_path, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    write_pictures(tmp_path / "in/x/one", squares(0, frames=5))
    Image.fromarray(squares(0, size=40)[0]).save(tmp_path / "in/x/one/5.png")
    data = frame_folders(str(tmp_path / "in"), fps=5.0)
    assert compute(data, method="dis", workers=1)["bad"] == 1
    assert "in/x/one" in (tmp_path / "in/.flow/quarantine.jsonl").read_text()


def test_videos_outside_the_root(tmp_path):
    for name in ("in/a.mp4", "a.mp4", "else/a.mp4"):
        write_video(tmp_path / name, squares(len(name), frames=3 + len(name)))
    rows = [Row("a.mp4"), Row("../a.mp4"), Row(str(tmp_path / "else/a.mp4"))]
    data = Manifest.build(rows, tmp_path / "in")
    assert compute(data, method="dis", workers=1)["made"] == 3
    for row in range(3):
        assert flow_file(data, row).is_relative_to(tmp_path / "in/.flow")
        assert all_flow(data, row).equal(opencv_flow(data.path(row)))


def test_the_environment_names_the_folder(three, tmp_path, monkeypatch, capsys):
    out = tmp_path / "flow"
    compute(three, method="dis", workers=1, out=str(out))
    assert f"SSVID_FLOW={out}" in capsys.readouterr().err
    monkeypatch.setenv("SSVID_FLOW", str(out))
    need_flow(three)
    assert flow_file(three, 1) == out / "b.mp4.mkv" and len(all_flow(three, 1)) == 6
    again = compute(three, method="dis", workers=1)
    assert (again["kept"], again["out"]) == (3, str(out))
    assert "SSVID_FLOW" not in capsys.readouterr().err
    monkeypatch.setenv("SSVID_FLOW", str(tmp_path / "none"))
    with pytest.raises(UserError, match=facts(str(tmp_path / "none"))):
        need_flow(three)


def test_small_pictures_may_have_a_smaller_bound(three):
    slow = np.array([[[-9.0, 0.5], [2.5, 5.0]]], np.float32)
    assert module.quantise(slow, 5.0).tolist() == [[[0, 140], [191, 255]]]
    compute(three, method="dis", bound=5.0, workers=1)
    assert compute(three, method="dis", bound=5.0, workers=1)["kept"] == 3
    with pytest.raises(UserError, match=facts("--bound", "5.0", "20.0")):
        compute(three, method="dis", workers=1)


def test_reading_needs_no_opencv(three, monkeypatch):
    compute(three, method="dis", workers=1)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert len(all_flow(three)) == 10
    with pytest.raises(UserError, match=facts("pip")):
        compute(three, method="dis", workers=1)


def test_rotated_videos_are_upright(shared, tmp_path):
    (tmp_path / "in").mkdir()
    video = tmp_path / "in/rotated_90.mov"
    video.symlink_to(shared / "videos-odd/rotated_90.mov")
    data = folder(str(tmp_path / "in"))
    compute(data, method="dis", workers=1)
    assert all_flow(data).shape[2:] == read(video, [0.0]).shape[2:]
