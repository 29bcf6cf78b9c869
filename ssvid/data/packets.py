"""container -> Packets: what the packets of its video stream tell, without decoding."""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ssvid.data.damage import find_damage
from ssvid.data.decoder import choose_decoder

BACK_S, AHEAD_S = 0.1, 10.0  # a larger step of the clock is a joint, as ffmpeg takes it
NEAR_JOINT = 3  # packets: FFmpeg marks one of those before or after a joint
SMALL_VOP = 20  # bytes: a smaller picture of MPEG-4 may be one that is not coded
VOP = b"\x00\x00\x01\xb6"  # with it a picture of MPEG-4 begins


class Packets(NamedTuple):
    """The packets of a stream that hold data, in the order of the file."""

    ticks: np.ndarray  # int64: when its frame is shown
    clock: np.ndarray  # int64: when it is decoded
    durations: np.ndarray  # int64 ticks, 0 where unknown
    keys: np.ndarray  # bool
    shown: np.ndarray  # bool: a player shows its frame
    torn: np.ndarray  # bool: the container says that it is damaged
    faults: np.ndarray  # bool: its bytes show damage
    small: bool = False  # some pictures of MPEG-4 may not be coded
    packed: bool = False  # some packets hold two pictures of MPEG-4
    held: int = 0  # ticks of the empty packets at the end, during which the last frame stays
    decoder: str = ""
    shift: Any = 0  # ticks of each packet by which its time goes on after a joint
    goes_back: bool = False  # the clock of decoding goes back
    timeless: bool = False  # some packets have no time at all

    @property
    def damaged(self) -> frozenset[int]:
        return frozenset(self.ticks[self.torn | self.faults].tolist())

    def find_duration(self, tick: int) -> int:
        """How many ticks the last frame is shown; 0 if that is unknown. `tick`: its own."""
        last = np.flatnonzero(self.ticks == tick)
        return int(self.durations[last[-1]]) + self.held if len(last) else 0

    def find_lead(self) -> tuple[int, int]:
        """How many packets precede the first key frame; how many after it are shown before it.

        Neither can usually be decoded. Both are 0 where no packet is a key frame.
        """
        keys = np.flatnonzero(self.keys)
        if not len(keys):
            return 0, 0
        following = self.ticks[keys[0] + 1 :] < self.ticks[keys[0]]
        return int(keys[0]), int(np.append(following, False).argmin())


def read_packets(container: Any, stream: Any) -> Packets:
    name, check = stream.codec_context.name, find_damage(stream)
    rows: list[tuple[int, int, int, bool, bool, bool, bool]] = []
    small = packed = goes_back = timeless = False
    decoder, held = "", 0
    before: int | None = None
    for packet in container.demux(stream):
        tick = packet.dts if packet.pts is None else packet.pts
        if tick is None:
            timeless = timeless or packet.size > 0
            continue
        if packet.dts is not None:
            goes_back = goes_back or before is not None and packet.dts < before
            before = packet.dts
        if not packet.size:
            held += packet.duration or 0
            continue
        data, held = bytes(packet), 0
        if not rows:
            decoder = choose_decoder(stream, packet)
        if name == "mpeg4":
            small = small or len(data) < SMALL_VOP
            packed = packed or data.count(VOP) > 1
        shown = not (packet.is_discard or packet.is_corrupt or _is_hidden(name, data))
        clock = tick if packet.dts is None else packet.dts
        key, torn = packet.is_keyframe, packet.is_corrupt
        rows.append((tick, clock, packet.duration or 0, key, shown, torn, bool(check(data))))
    table = np.array(rows, np.int64).reshape(-1, 7).T
    keys, shown, torn, faults = table[3:].astype(bool)
    small = small and not packed
    ticks, clock, durations = table[:3]
    flags = (keys, shown, torn, faults, small, packed)
    return Packets(
        ticks, clock, durations, *flags, held, decoder, goes_back=goes_back, timeless=timeless
    )


def _is_hidden(name: str, data: bytes) -> bool:
    """Whether a packet of vp8 or vp9 is a frame that others are predicted from and nobody sees."""
    if name == "vp8":
        return not data[0] & 0x10
    # Of vp9: no frame is shown again, this one is not shown, and no further frame follows in the
    # packet (an index at its end).
    mask = 0x05 if data[0] & 0x30 == 0x30 else 0x0A  # profile 3 has one bit more before them
    return name == "vp9" and not data[0] & mask and data[-1] & 0xE0 != 0xC0


def join_clocks(packets: Packets, base: Fraction) -> tuple[Packets, bool]:
    """The packets with the shifts by which times go on where the clock begins anew.

    And whether it does. Two recordings that are joined have a joint in the numbers of their packets
    as well, which FFmpeg takes for damage: it is none.
    """
    steps = np.diff(packets.clock)
    is_joint = (steps < float(-BACK_S / base)) | (steps > float(AHEAD_S / base))
    joints = (np.flatnonzero(is_joint) + 1).tolist()
    if not joints:
        return packets, False
    usual = int(np.median(steps[~is_joint]))
    packets = packets._replace(ticks=_mend_strays(packets, joints, usual, base))
    shift, near = np.zeros(len(packets.ticks), np.int64), np.zeros(len(packets.ticks), bool)
    for joint, following in zip(joints, [*joints[1:], len(shift)], strict=True):
        shown_before = (packets.ticks + shift)[:joint].max()
        duration = packets.durations[joint - 1] or usual
        shift[joint:] = shown_before + duration - packets.ticks[joint:following].min()
        near[max(0, joint - NEAR_JOINT) : joint + NEAR_JOINT] = True
    return packets._replace(
        shift=shift,
        torn=packets.torn & ~near,
        shown=packets.shown | packets.torn & near,
    ), True


def _mend_strays(packets: Packets, joints: list[int], usual: int, base: Fraction) -> np.ndarray:
    """The ticks of the packets, where the last frame of a recording may have the next one's time.

    That frame follows the other frames of its recording. `usual`: ticks of a frame.
    """
    ticks = packets.ticks.copy()
    is_stray = np.abs(ticks - packets.clock) > float(AHEAD_S / base)
    for first, joint in zip([0, *joints], [*joints, len(ticks)], strict=True):
        part = slice(first, joint)
        if is_stray[part].any() and not is_stray[part].all():
            following = ticks[part][~is_stray[part]].max() + usual
            ticks[part] = np.where(is_stray[part], following, ticks[part])
    return ticks
