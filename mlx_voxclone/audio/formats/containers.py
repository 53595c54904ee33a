"""Does a file hold as much audio as its container states, and no more? libsndfile reads the shorter of both, silently.

WAV (also RIFX, RF64, BW64), W64, AU, AIFF, CAF and NIST state the bytes of their audio, which are compared with the
file. An Ogg stream must end with a whole page and be the only one; an MP3 be as long as its Xing header says; a FLAC
end with the frame that its STREAMINFO ends with.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlx_voxclone.audio.formats.mpeg import skip_tags, xing
from mlx_voxclone.audio.source import AudioBytes, AudioError, opened

# Of the formats that libsndfile reads, those of which a missing part is noticed, here or while decoding.
CHECKED = frozenset({"WAV", "WAVEX", "RF64", "W64", "AU", "AIFF", "CAF", "NIST", "FLAC", "OGG", "MP3", "MPEG"})
NO_END_FLAG = "no end flag"
# What those write who cannot go back to the header: as much as comes.
_STREAMED = {size - head for size in (0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FFFF000) for head in (0, 36)}
_END_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_TAGS = (*_END_TAGS, b"ID3")
_SLACK = 512  # bytes after the audio that are no audio yet
_LAST_PAGES = 1 << 17  # bytes; an Ogg page has at most 65307
_FULL_PAGE = 4096  # bytes after which libogg sends a page
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_MEND = "`ffmpeg -ignore_length 1 -i FILE.wav NEW.wav` mends a WAV, others are to be exported again"


@dataclass(frozen=True)
class _Data:
    """Where the audio lies: `stated` bytes (None: up to the end of the file) from byte `at` on."""

    at: int
    stated: int | None
    chunk: str = ""  # struct format of the sizes of the chunks that may follow, "" if nothing may


def check_container(path: Path | AudioBytes) -> str | None:
    """Compare what a file states with what it holds; nothing is decoded.

    Returns:
        `NO_END_FLAG` for an Ogg Vorbis stream that is whole to its last page, which does not end it; else None.
    Raises:
        AudioError: `truncated`: a part is missing, or more follows than would be read; `unreadable`.
    """
    with opened(path) as (file, size):
        head = file.read(64)
        if head[:4] == b"OggS":
            return _check_ogg(path, file, size)
        if head[:4] == b"fLaC":
            _check_flac(path, file, size)
            return None
        try:
            found = _data(file, head, size)
        except struct.error:  # it ends inside a header
            found = None
        if found is None:
            raise AudioError("truncated", f"{path}: cut off before its audio begins")
        if isinstance(found, _Data):
            _compare(path, file, size, found)
        elif found == "mp3":
            _check_mp3(path, file, size)
    return None


def _compare(path: Path | AudioBytes, file: BinaryIO, size: int, data: _Data) -> None:
    present = max(0, size - data.at)
    if data.stated is None:
        return
    if data.stated > present:
        share = 100 * (1 - present / data.stated)
        raise AudioError("truncated", f"{path}: cut off, {share:.0f} % of its audio is missing")
    if not _holds_audio(file, size, data):
        return
    share = 100 * (1 - data.stated / present)
    what = "states no length" if data.stated == 0 else f"states a length that leaves out {share:.0f} % of what follows"
    raise AudioError(
        "truncated", f"{path}: its header {what}, as after a recorder that was cut short or joined files; {_MEND}"
    )


def _holds_audio(file: BinaryIO, size: int, data: _Data) -> bool:
    """Whether what follows the stated audio is more of it: neither chunks nor a tag nor padding."""
    at = data.at + data.stated
    at += -at % 8 if data.chunk == "<Q" else data.stated % 2 if data.chunk in ("<I", ">I") else 0
    while size - at > _SLACK:
        file.seek(at)
        head = file.read(24)
        if head.startswith(_TAGS):
            return False
        length = _chunk_length(head, data.chunk)
        if length is None or at + length > size + 1:
            file.seek(at)
            return any(any(block) for block in iter(lambda: file.read(1 << 20), b""))  # zeros: space set aside
        at += length
    return False


def _chunk_length(head: bytes, form: str) -> int | None:
    """Bytes of the chunk that begins so, its head included; None if none does, or another recording."""
    if (
        not form
        or not re.fullmatch(rb"[ -~]{4}", head[:4])
        or head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff")
    ):
        return None
    if form == "<Q":  # W64: a GUID, the size of all of it, up to a multiple of 8
        length = struct.unpack_from(form, head, 16)[0]
        return length + -length % 8 if length >= 24 else None
    length = struct.unpack_from(form, head, 4)[0]
    if form == ">q":
        return 12 + length if length >= 0 else None
    return 8 + length + length % 2


def _data(file: BinaryIO, head: bytes, size: int) -> "_Data | str | None":
    """Where the audio of a file lies; None without any; "" for a format that states none, "mp3" for MPEG audio."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _riff(file, head[:4], size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        if (found := _chunk(file, 12, b"SSND", ">I", size)) is None:
            return None
        file.seek(found[0])
        offset = struct.unpack(">I", file.read(4))[0]
        at = found[0] + 8 + offset
        return _Data(at, None if found[1] in _STREAMED else max(0, found[1] - 8 - offset), ">I")
    if head[:4] == b"riff" and head[16 + 8 : 16 + 12] == b"wave":
        at = 40
        while at + 24 <= size:
            file.seek(at)
            name, length = file.read(16), struct.unpack("<Q", file.read(8))[0]
            if name == _W64_DATA:
                return _Data(at + 24, max(0, length - 24), "<Q")
            at += max(24, -(-length // 8) * 8)
        return None
    if head[:4] in (b".snd", b"dns."):
        at, stated = struct.unpack_from(">II" if head[:4] == b".snd" else "<II", head, 4)
        return _Data(at, None if stated in _STREAMED else stated)
    if head[:4] == b"caff":
        if (found := _chunk(file, 8, b"data", ">q", size)) is None:
            return None
        return _Data(found[0] + 4, None if found[1] < 0 else max(0, found[1] - 4), ">q")
    if head[:7] == b"NIST_1A":
        return _nist(file)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0):
        return "mp3"
    return ""


def _riff(file: BinaryIO, kind: bytes, size: int) -> _Data | None:
    form = ">I" if kind == b"RIFX" else "<I"
    if (found := _chunk(file, 12, b"data", form, size)) is None:
        return None
    at, stated = found
    wide = _chunk(file, 12, b"ds64", form, at) if kind in (b"RF64", b"BW64") else None
    if wide is not None and stated in (0xFFFFFFFF, 0):
        file.seek(wide[0] + 8)
        return _Data(at, struct.unpack("<Q", file.read(8))[0], form)
    return _Data(at, None if stated in _STREAMED else stated, form)


def _chunk(file: BinaryIO, at: int, name: bytes, form: str, size: int) -> tuple[int, int] | None:
    """Place and stated size of a chunk's content, of chunks from byte `at` on."""
    width = struct.calcsize(form)
    while at + 4 + width <= size:
        file.seek(at)
        found, stated = file.read(4), struct.unpack(form, file.read(width))[0]
        if found == name:
            return at + 4 + width, stated
        if stated < 0:
            return None
        at += 4 + width + stated + (stated % 2 if width == 4 else 0)
    return None


def _nist(file: BinaryIO) -> _Data | str | None:
    file.seek(8)
    try:
        at = int(file.read(8).strip())
        file.seek(0)
        fields = dict(re.findall(rb"^(\w+) -i (\d+)\s*$", file.read(min(at, 1 << 16)), re.MULTILINE))
        sizes = [int(fields.get(name, b"1")) for name in (b"channel_count", b"sample_n_bytes")]
        return _Data(at, int(fields[b"sample_count"]) * sizes[0] * sizes[1])
    except (KeyError, ValueError):
        return ""


# Compressed streams


def _check_ogg(path: Path | AudioBytes, file: BinaryIO, size: int) -> str | None:
    """RFC 3533, section 6: pages, of which the first says that a stream begins and the last one that it ends."""
    file.seek(max(0, size - _LAST_PAGES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    lengths = page[27 : 27 + page[26]] if len(page) >= 27 else b""
    if len(page) < 27 or len(lengths) < page[26] or len(page) < 27 + len(lengths) + sum(lengths):
        raise AudioError("truncated", f"{path}: cut off, its Ogg stream does not end; record or convert it again")
    if _another_stream(file):
        raise AudioError(
            "truncated",
            f"{path}: several Ogg streams, of which the first alone would be read; `ffmpeg -i x.ogg x.wav` joins them",
        )
    if page[5] & 4:
        return None
    if sum(lengths) >= _FULL_PAGE or len(lengths) == 255:  # full: it was sent since more was to come
        raise AudioError("truncated", f"{path}: cut off, its Ogg stream does not end; record or convert it again")
    file.seek(0)
    if b"OpusHead" in file.read(512):
        raise AudioError(
            "truncated", f"{path}: its Ogg Opus stream has no end flag, or is cut off; `ffmpeg -i x.ogg x.wav` mends it"
        )
    return NO_END_FLAG


def _another_stream(file: BinaryIO) -> bool:
    """Whether a page begins a stream after one that does not."""
    continued = False
    for found in _found(file, rb"OggS\0[\x00-\x07]"):
        first = bool(found[5] & 2)
        if first and continued:
            return True
        continued |= not first
    return False


def _found(file: BinaryIO, pattern: bytes) -> Iterator[bytes]:
    """All of a file that matches a pattern of a few bytes."""
    file.seek(0)
    before, expression = b"", re.compile(pattern)
    while block := file.read(1 << 22):
        for found in expression.finditer(before + block):
            if found.end() > len(before):
                yield found[0]
        before = block[-8:]


def _check_mp3(path: Path | AudioBytes, file: BinaryIO, size: int) -> None:
    """A Xing or Info header states frames, by which libsndfile ends, and the bytes that they take."""
    begin = skip_tags(file)
    file.seek(begin)
    frames, stated = xing(file.read(256)) or (0, 0)
    if not frames or not stated:
        return
    present = size - begin
    if stated > 1.01 * present + 4096:
        raise AudioError("truncated", f"{path}: cut off, {100 * (1 - present / stated):.0f} % of its audio is missing")
    if present > 1.01 * stated + 4096:
        file.seek(begin + stated)
        rest = file.read(4096)
        if re.search(rb"\xff[\xe2-\xff][\x10-\xef]", rest) and not any(tag in rest for tag in _END_TAGS):
            raise AudioError(
                "truncated",
                f"{path}: its header states {100 * stated / present:.0f} % of what it holds, as where files were "
                "joined; `ffmpeg -i x.mp3 x.wav` reads all of it",
            )


def _check_flac(path: Path | AudioBytes, file: BinaryIO, size: int) -> None:
    """The last frame's header says which samples it holds; it must not lie beyond those that STREAMINFO states."""
    file.seek(8)
    info = file.read(34)
    if len(info) < 34:
        raise AudioError("truncated", f"{path}: cut off before its audio begins")
    if sum(1 for _ in _found(file, rb"fLaC[\x00\x80]\x00\x00\x22")) > 1:
        raise AudioError(
            "truncated", f"{path}: several FLAC files in one, of which the first alone would be read; take them apart"
        )
    stated = int.from_bytes(info[13:18], "big") & ((1 << 36) - 1)
    if not stated:
        return
    file.seek(max(0, size - _LAST_PAGES))
    last = _last_flac_frame(file.read(), int.from_bytes(info[0:2], "big"))
    if last is not None and last >= stated:
        raise AudioError(
            "truncated",
            f"{path}: its header states {stated} samples, but more follow, the last from {last} on; "
            "`ffmpeg -i x.flac x.wav` reads all of them",
        )


def _last_flac_frame(tail: bytes, block: int) -> int | None:
    """The first sample of the last frame that has a sound header, by RFC 9639, section 9.1; None if none is found.

    Args:
        block: samples of a frame, where frames are counted and not samples.
    """
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        head = tail[at : at + 16]
        if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] & 1:
            continue
        ones = next((k for k in range(8) if not head[4] & (0x80 >> k)), 8)
        if ones in (1, 8):
            continue
        more = max(0, ones - 1)
        number = head[4] & (0x7F >> ones)
        for byte in head[5 : 5 + more]:
            number = number << 6 | byte & 0x3F
        end = 5 + more + {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
        if end < len(head) and _crc8(head[:end]) == head[end] and _crc16(tail[at:]) == 0:
            return number if head[1] & 1 else number * block
    return None


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _CRC16[value >> 8 ^ byte]
    return value


def _crc16_of(byte: int) -> int:
    value = byte << 8
    for _ in range(8):
        value = (value << 1 ^ (0x8005 if value & 0x8000 else 0)) & 0xFFFF
    return value


_CRC16 = [_crc16_of(byte) for byte in range(256)]
