"""Audio of a response, encoded while it is spoken: what OpenAI calls `response_format`."""

import io
from collections.abc import Callable

import numpy as np
import soundfile

from mlx_voxclone.audio.io import SAMPLE_RATE, wav_data, wav_header

# Name: media type, and libsndfile's format and subtype.
MEDIA = {
    "mp3": ("audio/mpeg", ("MP3", "MPEG_LAYER_III")),
    "opus": ("audio/ogg", ("OGG", "OPUS")),
    "flac": ("audio/flac", ("FLAC", "PCM_16")),
    "wav": ("audio/wav", None),
    "pcm": (f"audio/pcm;rate={SAMPLE_RATE};encoding=signed-int;bits=16", None),
}
MP3_LEVEL = 0.5  # of libsndfile: 80 kbit/s
BLOCK = SAMPLE_RATE  # samples given to libsndfile at once: some of its encoders take their memory from the stack
STATES_LENGTH = ("flac", "wav")  # in a header, which a stream has to leave open


class Encoder:
    """Mono audio of 24 kHz in one of the formats, piece by piece.

    Args:
        name: one of `MEDIA`. WAV and PCM have 16 bits, little-endian.
        whole: what is encoded is sent when all of it is there: then headers state the length.

    Attributes:
        media_type: for `Content-Type`.
    """

    def __init__(self, name: str, *, whole: bool) -> None:
        self.media_type, container = MEDIA[name]
        self._name, self._whole = name, whole
        self._sink = _Sink(keep=whole)
        self._samples = 0
        self._file = container and soundfile.SoundFile(
            self._sink,
            "w",
            SAMPLE_RATE,
            1,
            format=container[0],
            subtype=container[1],
            # Players tell the length of an MP3 that has no header of it (a stream has none) from its bit rate.
            **({"bitrate_mode": "CONSTANT", "compression_level": MP3_LEVEL} if name == "mp3" else {}),
        )
        self._header: Callable[[int | None], bytes] = lambda count: wav_header(name, count, float32=False)

    def add(self, samples: np.ndarray) -> bytes:
        """Take the next samples `[S]`, float; returns the bytes that can be sent now (never where it is `whole`)."""
        data = wav_data(self._name, samples, float32=False)
        begun = self._samples > 0
        self._samples += len(data)
        if self._file is not None:
            for start in range(0, len(data), BLOCK):
                self._file.write(data[start : start + BLOCK])
        elif self._name == "wav" and not self._whole and not begun:
            self._sink.write(self._header(None) + data.tobytes())
        else:
            self._sink.write(data.tobytes())
        return b"" if self._whole else self._sink.take()

    def end(self) -> bytes:
        """The bytes that are left: all of them where it is `whole`."""
        if self._file is not None:
            self._file.close()
        data = self._sink.take()
        return self._header(self._samples) + data if self._name == "wav" and self._whole else data


class _Sink(io.RawIOBase):
    """A file that is written from its beginning to its end; what has been taken out of it is not there to be changed.

    Args:
        keep: nothing is taken before the end, so that headers can be completed.
    """

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self._keep, self._taken, self._position = keep, 0, 0
        self._content = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._taken + len(self._content)
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: size}[whence]
        return self._position

    def write(self, data) -> int:
        data = bytes(data)
        start = self._position - self._taken
        self._position += len(data)
        lost = max(0, -start)  # bytes that are gone already
        start = max(0, start)
        if lost < len(data):
            self._content[start : start + len(data) - lost] = data[lost:]
        return len(data)

    def take(self) -> bytes:
        """What has been written since the last time."""
        content = bytes(self._content)
        self._taken += len(content)
        self._content.clear()
        return content
