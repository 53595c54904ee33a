"""MP3 files of varying bitrate (VBR) without a Xing header: their frames are counted, and a header states the number.

libsndfile computes the length of a file without such a header from the bitrate of its first frame. With a varying one a
recording that becomes louder loses its end, and one that becomes softer seems cut off. So the headers of the frames are
counted (ISO 11172-3, section 2.4.1.3; 13818-3 for lower sampling rates), and libsndfile is given the file behind a Xing
header that is not on the disk.
"""

import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

_LAYER_3 = 1
_KBPS = {  # by version; the index of a header picks one
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # MPEG 1, 2, 2.5
_SAME = (0xFE, 0x0C)  # bits of the second and third byte that all frames of a stream share
_BLOCK = 1 << 16  # bytes in which a lost header is looked for at once
RESERVOIR = 24 * 1152  # samples: a frame may need bits of so many before it, each of which overlaps with the next


@dataclass(frozen=True)
class Counted:
    """The frames of an MP3 of varying bitrate that states no length."""

    begin: int  # byte of the first one
    count: int
    header: bytes  # of the first one


def skip_tags(file: BinaryIO) -> int:
    """The byte after the ID3v2 tags at the beginning."""
    begin = 0
    while True:
        file.seek(begin)
        head = file.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            return begin
        begin += 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))


def xing(first: bytes) -> tuple[int, int] | None:
    """Frames and bytes that a Xing (or Info) header in the first frame states, 0 for one that it leaves out; None
    without such a header."""
    at = max(first.find(b"Xing", 0, 64), first.find(b"Info", 0, 64))
    if at < 0 or len(first) < at + 16:
        return None
    flags = first[at + 7]
    numbers = [int.from_bytes(first[k : k + 4], "big") for k in range(at + 8, at + 16, 4)]
    frames = numbers.pop(0) if flags & 1 else 0
    return frames, numbers[0] if flags & 2 else 0


def counted(file: BinaryIO, size: int) -> Counted | None:
    """Count the frames of an MP3 of `size` bytes; None: it states their number, or all are of one bitrate."""
    at = begin = _found(file, skip_tags(file), size, None)
    if at is None:
        return None
    file.seek(at)
    first = file.read(256)
    stated = xing(first)
    if stated is not None and stated[0]:
        return None
    if stated is not None:  # a Xing header without a number: not audio
        at = begin = at + _length(first)
    header, count, bitrates = first[:4], 0, set()
    while at is not None:
        file.seek(at)
        head = file.read(4)
        length = _length(head) if _like(head, header) else 0
        if not length:
            at = _found(file, at, size, header)
            continue
        if at + length > size:
            break
        bitrates.add(head[2] >> 4)
        count, at = count + 1, at + length
    return Counted(begin, count, header) if len(bitrates) > 1 else None


class WithXing(io.RawIOBase):
    """An MP3 without its tags, behind a frame with a Xing header that states its frames.

    Args:
        file: the MP3; stays open.
        size: its bytes.
    """

    def __init__(self, file: BinaryIO, size: int, frames: Counted) -> None:
        header = bytes([frames.header[0], frames.header[1] | 1, 0xE0 | frames.header[2] & 0x0C, frames.header[3]])
        one_channel, first_version = header[3] >> 6 == 3, bool(header[1] & 8)
        side = {(False, True): 32, (True, True): 17, (False, False): 17, (True, False): 9}[one_channel, first_version]
        stated = header + bytes(side) + b"Xing" + (1).to_bytes(4, "big") + frames.count.to_bytes(4, "big")
        self._head = stated.ljust(_length(header), b"\0")
        self._file, self._begin, self._at = file, frames.begin, 0
        self._size = len(self._head) + size - frames.begin

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        if self._at < len(self._head):
            part = self._head[self._at : self._at + len(view)]
            view[: len(part)] = part
            done, self._at = len(part), self._at + len(part)
        if done < len(view):
            self._file.seek(self._begin + self._at - len(self._head))
            count = self._file.readinto(view[done:])
            done, self._at = done + count, self._at + count
        return done


def _length(head: bytes) -> int:
    """Bytes of the frame with this header; 0 if it is none of layer III, or of a bitrate that it does not state."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0 or head[1] >> 1 & 3 != _LAYER_3:
        return 0
    version, rate, pick = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or pick in (0, 15):
        return 0
    first = version == 3
    return (144 if first else 72) * 1000 * _KBPS[first][pick] // _HERTZ[version][rate] + (head[2] >> 1 & 1)


def _like(head: bytes, other: bytes) -> bool:
    """Whether two headers are of the same version, layer and sampling rate."""
    return len(head) == 4 and not any((head[k + 1] ^ other[k + 1]) & bits for k, bits in enumerate(_SAME))


def _found(file: BinaryIO, at: int, size: int, like: bytes | None) -> int | None:
    """The first byte from `at` on of a frame that another one follows, or the end; None: there is none."""
    while at < size:
        file.seek(at)
        block = file.read(_BLOCK)
        for start in np.flatnonzero(np.frombuffer(block, np.uint8) == 0xFF).tolist():
            head = block[start : start + 4]
            if len(head) < 4 or (like is not None and not _like(head, like)) or not (length := _length(head)):
                continue
            file.seek(at + start + length)
            after = file.read(4)
            if at + start + length == size or (_like(after, head) and _length(after)):
                return at + start
        at += max(1, len(block) - 3) if len(block) == _BLOCK else _BLOCK
    return None
