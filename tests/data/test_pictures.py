import os
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ssvid.data.decode import read, read_timestamps
from ssvid.data.pictures import list_pictures
from ssvid.errors import DecodeError
from tests.data.bars import numbers, picture
from tests.helpers import facts, for_each


def write_names(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@for_each(
    "names",
    [
        ["2.jpg", "10.jpg"],
        ["0.jpg", "0.25.jpg", "0.5.jpg", "1.jpg", "1.25.jpg", "10.jpg"],
        ["0000.jpeg", "0001.jpg", "0002.JPEG", "0003.png"],
        ["08.jpg", "9.jpg", "010.jpg"],
        ["v1_g02_9.jpg", "v1_g02_10.jpg"],
        ["1305031102.175304.png", "1305031102.2.png", "1305031103.011.png"],
        ["9_1920x1080.jpg", "10_1920x1080.jpg"],  # the number that changes need not be the last
        ["9_0.9.jpg", "10_1.0.jpg"],  # number and second: both rise
        ["cover.jpg"],
        ["0,5.jpg", "0,75.jpg", "1,00.jpg"],
        ["00_00_00_500.jpg", "00_00_00_750.jpg", "00_00_01_000.jpg", "00_00_01_250.jpg"],
        ["t_00_59_967.png", "t_01_00_000.png", "t_01_00_033.png"],
        ["00h59m59s.jpg", "01h00m00s.jpg", "01h00m01s.jpg"],
        ["2023-12-31 23.59.58.jpg", "2024-01-01 00.00.01.jpg", "2024-01-02 00.00.01.jpg"],
        ["IMG_20240131_235959.jpg", "IMG_20240201_000001.jpg"],
    ],
)
def test_the_numbers_in_the_names_are_the_order(tmp_path, names):
    write_names(tmp_path, [*reversed(names), f"._{names[0]}", ".hidden.png", "notes.txt"])
    assert list_pictures(tmp_path) == tuple(names)


@for_each(
    "names",
    [
        ["img_00000.jpg", "flow_x_00000.jpg"],
        ["img_00000.jpg", "img_00001.jpg", "cover.jpg"],
        ["0001.jpg", "0001.png"],  # colour and depth
        ["1.jpg", "01.jpg"],
        ["cam1_1.jpg", "cam1_2.jpg", "cam2_1.jpg"],
        ["cam_1_500.jpg", "cam_1_750.jpg", "cam_2_000.jpg"],  # the clip or the second of a clip
        ["1_98.jpg", "1_99.jpg", "2_00.jpg"],
        ["20240101_120000_001.jpg", "20240101_120000_002.jpg", "20240101_130000_001.jpg"],
        ["a.jpg", "b.jpg"],
    ],
)
def test_two_series_in_one_folder_are_refused_by_name(tmp_path, names):
    write_names(tmp_path, names)
    with pytest.raises(DecodeError, match=facts(str(tmp_path))) as error:
        list_pictures(tmp_path)
    assert sum(name in str(error.value) for name in names) == 2
    with pytest.raises(DecodeError):
        read_timestamps(tmp_path, 10.0)


def test_hidden_pictures_and_suffixes_play_no_part(tmp_path):
    for i in range(4):
        Image.fromarray(picture(i)).save(tmp_path / f"{i:03d}.{('jpeg', 'jpg')[i % 2]}")
        (tmp_path / f"._{i:03d}.jpg").write_bytes(b"\0\5\x16\7")
    assert numbers(read(tmp_path, np.arange(4) / 8, fps=8.0)) == [0, 1, 2, 3]


def test_of_16_bits_the_upper_8_are_read(tmp_path):
    values = np.array([[0, 255], [256, 9000], [32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "0.png")
    cv2.imwrite(str(tmp_path / "1.png"), np.stack([values] * 3, axis=2))
    frames = read(tmp_path, [0.0, 0.125], fps=8.0)
    assert frames.shape == (2, 3, 3, 2)
    for plane in frames.flatten(0, 1):
        assert plane.tolist() == [[0, 0], [1, 35], [128, 255]]


@for_each("mode, values", [("F", [[0.5]]), ("I", [[70000]]), ("I", [[-1]])])
def test_other_depths_are_refused(tmp_path, mode, values):
    array = np.array(values, np.float32 if mode == "F" else np.int32)
    Image.fromarray(array).save(tmp_path / "0.png", format="TIFF")
    with pytest.raises(DecodeError, match=facts("0.png", "16")):
        read(tmp_path, [0.0], fps=8.0)


def write_bomb(file, side):
    """A png of side x side gray pixels, which says so and holds a few bytes of them."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head)]
    parts += [chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")]
    file.write_bytes(b"".join(parts))


def test_a_picture_with_a_side_of_one_pixel_is_a_bad_file(tmp_path):
    Image.new("L", (1, 16)).save(tmp_path / "0.png")
    with pytest.raises(DecodeError, match=facts(str(tmp_path), "0.png", "1x16")):
        read(tmp_path, [0.0], fps=8.0)


@for_each(
    "orientation, shown", [(1, [[0, 80]]), (2, [[80, 0]]), (6, [[0], [80]]), (8, [[80], [0]])]
)
def test_pictures_are_turned_as_their_exif_block_says(tmp_path, orientation, shown):
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(np.array([[0, 80]], np.uint8), np.ones((8, 8), np.uint8))  # of a jpeg
    Image.fromarray(blocks).save(tmp_path / "0.jpg", exif=exif, quality=100)
    frames = read(tmp_path, [0.0], fps=8.0)
    assert frames[0, 0, 4::8, 4::8].tolist() == shown
    whole = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "0.jpg").write_bytes(
        whole.replace(b"Exif\0\0II*", b"Exif\0\0xx*").replace(b"Exif\0\0MM", b"Exif\0\0xx")
    )
    assert read(tmp_path, [0.0], fps=8.0)[0, 0, 4::8, 4::8].tolist() == [[0, 80]]


@for_each("side", [10_000, 60_000])
def test_a_picture_of_too_many_pixels_is_a_bad_file(tmp_path, side):
    write_bomb(tmp_path / "0.png", side)
    with pytest.raises(DecodeError, match=facts("0.png", str(side**2))):
        read(tmp_path, [0.0], fps=8.0)


@for_each("kind", [ZeroDivisionError, struct.error, IndexError, EOFError, MemoryError])
def test_every_error_of_a_picture_is_the_fault_of_its_file(tmp_path, monkeypatch, kind):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")

    def fail(*_):
        raise kind

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DecodeError, match=facts("0.png", kind.__name__.split(".")[-1])):
        read(tmp_path, [0.0], fps=8.0)


def test_damaged_pictures_are_bad_files(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    whole = (tmp_path / "0.png").read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[generator.integers(8, len(whole))] ^= 0xFF
        (tmp_path / "0.png").write_bytes(damaged[: generator.integers(20, 2 * len(whole))])
        try:
            read(tmp_path, [0.0], fps=8.0)
        except DecodeError as error:
            refused += 1
            assert re.search("0.png", str(error))
    assert refused > 20


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(DecodeError, match=facts("0.png")):
        read(tmp_path, [0.0], fps=8.0)
