import csv
import pickle
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ssvid.data import decode
from ssvid.data.decode import read, read_timestamps
from ssvid.errors import DecodeError, UserError
from tests.data.bars import numbers, picture, write
from tests.helpers import facts, for_each

# file -> frames, height, width of videos-odd that can be read whole
GOOD = {
    "nasa_13013_multistream.mp4": (325, 180, 320),
    "av1_video.mkv": (125, 360, 640),
    "h265_10bits.mp4": (30, 200, 200),
    "h264_10bits.mp4": (30, 200, 200),
    "bt709_full_range.mp4": (30, 720, 1280),
    "rotated_90.mov": (3, 568, 320),
    "rotated_270.mov": (3, 568, 320),
    "unordered.mov": (4, 50, 50),
    "flipping_a_pancake.mkv": (310, 240, 426),
    "water_bottle_drumming.mp4": (100, 512, 512),
    "kinetics_demo_mpeg4.avi": (300, 480, 853),
    "mmaction2_demo.mp4": (280, 256, 427),  # stored 340 wide, pixels of 64:51
    "ucf101_original_xvid.avi": (218, 240, 320),
    "truncated_60pct.avi": (131, 240, 320),  # the 132nd is torn
    "vfr_water_bottle.mkv": (56, 240, 320),
    "vp9_pancake.webm": (90, 144, 176),
}
BAD = ("nasa_13013_audio_only.mp3", "truncated_half.mp4", "empty.mp4")


def test_frames_are_exact_with_b_frames_and_a_long_gop(long_gop):
    assert read_timestamps(long_gop).tolist() == pytest.approx([i / 25 for i in range(300)])
    for wanted in (
        [0],
        [299],
        [249, 250, 251],
        [7, 60, 61, 200],
        [*range(253, 299, 5)],
        [100, 10, 100, 10],
    ):
        assert numbers(read(long_gop, [i / 25 for i in wanted])) == wanted


@for_each(
    "suffix, codec",
    [("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mkv", "libx264"), ("avi", "libx264")],
)
def test_frames_are_exact_in_other_containers(tmp_path, suffix, codec):
    options = {"deadline": "realtime", "cpu-used": 8} if codec == "libvpx-vp9" else {"bf": 2}
    path = write(tmp_path / f"a.{suffix}", [i / 25 for i in range(60)], codec, g=25, **options)
    table = read_timestamps(path)
    assert len(table) == 60
    for wanted in ([0, 1, 59], [26, 30, 34], [49, 50]):
        assert numbers(read(path, table[wanted])) == wanted


def test_a_time_means_the_frame_shown_then(tmp_path):
    times = np.cumsum([0.0, 0.04, 0.2, 0.01, 0.5, 0.03, 0.04, 0.33])
    path = write(tmp_path / "vfr.mp4", times, g=3, bf=2)
    assert read_timestamps(path) == pytest.approx(times, abs=2e-5)
    query_times = [0.0, 0.039, 0.0401, 0.239, 0.245, 0.7, 0.7501, 1.14, 9.0, -1.0]
    shown = [int((times <= t + 1e-4).sum()) - 1 for t in query_times[:-1]] + [0]
    assert numbers(read(path, query_times)) == shown
    assert numbers(read(path, [times[5] - 5e-5])) == [5]  # within the tolerance: that frame already


@for_each("suffix, codec", [("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx-vp9")])
def test_frames_that_no_wanted_one_is_built_from_are_passed_over(
    tmp_path, monkeypatch, suffix, codec
):
    """Without B frames: the end of a group of 12 after its last wanted frame, and whole groups."""
    options = {"deadline": "realtime", "cpu-used": 8} if codec == "libvpx-vp9" else {"bf": 0}
    path = write(
        tmp_path / f"a.{suffix}",
        [i / 25 for i in range(100)],
        codec,
        g=12,
        sc_threshold=0,
        **options,
    )
    table, whole, decoded_frames = decode.scan_file(path), decode.decode_stream, []
    assert table.ordered and len(table.keys) >= 9

    def counted(*arguments):
        for frame in whole(*arguments):
            decoded_frames.append(frame)
            yield frame

    monkeypatch.setattr(decode, "decode_stream", counted)
    for wanted, most in (
        ([13, 17, 21, 25, 61], 10 + 2 + 2),
        ([2, 95], 3 + 12),
        ([30, 31, 32], 9),
        ([0, 99], 1 + 4),
    ):
        decoded_frames.clear()
        assert numbers(read(path, table.times[wanted])) == wanted
        assert len(decoded_frames) <= most


def test_b_frames_are_never_passed_over(long_gop):
    table = decode.scan_file(long_gop)
    assert (
        not table.ordered and decode.find_unneeded_ticks(table, table.pts[[0, 299]]) == frozenset()
    )


def test_where_passing_over_fails_all_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", [i / 25 for i in range(60)], g=12, bf=0, sc_threshold=0)
    monkeypatch.setattr(
        decode,
        "find_unneeded_ticks",
        lambda table, ticks: frozenset(table.pts[1:30].tolist() * table.ordered),
    )
    assert numbers(read(path, [0.0, 20 / 25, 40 / 25])) == [0, 20, 40]


def test_seek_goes_to_the_key_frame_and_falls_back_to_the_start(long_gop, monkeypatch):
    starts = []
    real = decode._decode
    monkeypatch.setattr(
        decode, "_decode", lambda p, table, ticks, start, pictures_of_tick: starts.append(start)
    )
    with pytest.raises(DecodeError):
        read(long_gop, [270 / 25])
    assert starts == [decode.scan_file(long_gop).keys[-1], None] and starts[0] > 0

    def blind_after_seek(path, table, ticks, start, pictures_of_tick):
        if start is None:
            real(path, table, ticks, start, pictures_of_tick)

    monkeypatch.setattr(decode, "_decode", blind_after_seek)
    assert numbers(read(long_gop, [270 / 25])) == [270]


@for_each("name", GOOD)
def test_odd_files_read(shared, name):
    path, (frames, height, width) = shared / "videos-odd" / name, GOOD[name]
    table = read_timestamps(path)
    assert len(table) == frames and (np.diff(table) > 0).all()
    decoded = read(path, table[[0, frames // 2, frames - 1]])
    assert decoded.shape == (3, 3, height, width) and decoded.dtype == torch.uint8


@for_each("name", BAD)
def test_files_that_cannot_be_read_say_why(shared, name):
    with pytest.raises(DecodeError, match=facts(name)) as error:
        read(shared / "videos-odd" / name, [0.0])
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.path, again.why) == (str(shared / "videos-odd" / name), error.value.why)


def test_damage_is_an_error_with_its_time(shared):
    path = shared / "videos-odd/corrupted.mp4"
    assert read(path, [0.0, 1.0]).shape[0] == 2  # the good part stays good
    with pytest.raises(DecodeError) as error:
        read(path, [2.0, 4.0])
    assert error.value.time == pytest.approx(4.0)


@for_each("suffix", ["mp4", "avi"])
def test_overwritten_bytes_never_give_a_wrong_picture(tmp_path, suffix):
    path = write(
        tmp_path / f"a.{suffix}",
        [i / 25 for i in range(60)],
        "libx264" if suffix == "mp4" else "mpeg4",
        g=60,
    )
    clean = read(path, read_timestamps(path))
    data, draw = bytearray(path.read_bytes()), np.random.RandomState(0)
    for i in range(len(data) * 3 // 4, len(data) * 3 // 4 + 900, 60):
        data[i] ^= draw.randint(1, 255)
    path.with_stem("b").write_bytes(data)
    refused = 0
    for i, time in enumerate(read_timestamps(path)):
        try:
            decoded = read(path.with_stem("b"), [time])
        except DecodeError:
            refused += 1
        else:
            assert (decoded[0].float() - clean[i].float()).abs().mean() < 2
    assert 0 < refused < 60


def test_rotated_pictures_stand_upright(shared):
    path = shared / "videos-odd/rotated_90.mov"
    import av

    with av.open(str(path)) as container:
        stored = torch.from_numpy(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    assert torch.equal(
        read(path, [0.0])[0].permute(1, 2, 0), torch.rot90(stored, -1)
    )  # a quarter clockwise


def test_missing_file_and_wrong_decoder(tmp_path, long_gop):
    with pytest.raises(DecodeError, match=facts("none.mp4")):
        read_timestamps(tmp_path / "none.mp4")
    with pytest.raises(DecodeError, match=facts(str(tmp_path))):
        read(tmp_path, [0.0], fps=10.0)  # a folder without frames
    with pytest.raises(UserError, match=facts("pyav", "torchcodec")):
        read(long_gop, [0.0], decoder="decord")


def test_a_file_written_anew_is_scanned_anew(tmp_path):
    path = write(tmp_path / "a.mp4", [0.0, 0.04])
    assert len(read_timestamps(path)) == 2
    write(path, [0.0, 0.04, 0.08])
    assert len(read_timestamps(path)) == 3


def test_torchcodec_absent_is_one_sentence(long_gop, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UserError, match=facts("--decoder", "pyav")):
        read(long_gop, [0.0], decoder="torchcodec")


def test_torchcodec_is_asked_for_indices_in_order(long_gop, monkeypatch):
    class VideoDecoder:
        def __init__(self, path, **options):
            wanted = {"seek_mode": "exact", "dimension_order": "NCHW"}
            assert options == {**wanted, "num_ffmpeg_threads": 1, "stream_index": 0}

        def get_frames_at(self, indices):
            if indices[-1] > 200:
                raise RuntimeError("end of file\nmore")
            return SimpleNamespace(
                data=torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
            )

    module = ModuleType("torchcodec.decoders")
    module.VideoDecoder = VideoDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    assert read(long_gop, [4.0, 1.0, 4.0], decoder="torchcodec")[:, 0, 0, 0].tolist() == [
        100,
        25,
        100,
    ]
    with pytest.raises(DecodeError, match="end of file$"):
        read(long_gop, [10.0], decoder="torchcodec")


def test_a_folder_of_frames(tmp_path):
    for i in range(12):
        Image.fromarray(picture(i)).save(tmp_path / f"{i + 1}.jpg")  # 2 before 10
    (tmp_path / "notes.txt").write_text("not a picture")
    assert read_timestamps(tmp_path, 10.0) == pytest.approx(np.arange(12) / 10)
    assert numbers(read(tmp_path, [1.1, 0.0, 0.95], fps=10.0)) == [11, 0, 9]
    with pytest.raises(UserError, match=facts("--data.fps")):
        read_timestamps(tmp_path)
    (tmp_path / "3.jpg").write_bytes(b"no")
    with pytest.raises(DecodeError, match=facts("3.jpg")):
        read(tmp_path, [0.2], fps=10.0)


def test_every_ninth_mini6_file_reads_as_its_list_says(shared):
    root = shared / "real/ucf101-mini6"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    lines = list(csv.DictReader((root / "labels.csv").read_text().splitlines()))[::29]
    for line in lines:
        table = read_timestamps(root / line["path"])
        assert len(table) == int(line["frames"])
        assert read(root / line["path"], table[[3, -1]]).shape == (
            2,
            3,
            int(line["height"]),
            int(line["width"]),
        )


def test_torchcodec_gives_the_same_frames(shared):
    """Bit for bit, also for variable-rate, rotated and many-stream files; not for 10-bit files."""
    decoders = pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    assert decoders.VideoDecoder
    for name in (
        "vfr_water_bottle.mkv",
        "rotated_90.mov",
        "nasa_13013_multistream.mp4",
        "vp9_pancake.webm",
    ):
        file = shared / "videos-odd" / name
        times = read_timestamps(file)[:: max(1, len(read_timestamps(file)) // 5)]
        assert torch.equal(read(file, times), read(file, times, decoder="torchcodec")), name
