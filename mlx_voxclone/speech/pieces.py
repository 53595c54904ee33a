"""Frames of speech, decoded in pieces while more are spoken."""

import numpy as np

from mlx_voxclone.model.codec import Codec

FIRST_PIECE, PIECE = 10, 25  # frames: heard soon, then seldom enough that the codec's left context costs little


class Pieces:
    """Collects frames; each piece is decoded behind the codec's exact left context, so that joined they are the whole.

    Attributes:
        frames: 0-based codes `[37]` of each frame so far.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec, self._decoded, self._size = codec, 0, FIRST_PIECE
        self.frames: list[np.ndarray] = []

    @property
    def codes(self) -> np.ndarray:
        """What was said so far: 0-based `[37, T]`, int32."""
        none = np.zeros((self._codec.config.n_codebooks, 0), dtype=np.int32)
        return np.stack(self.frames, axis=1) if self.frames else none

    def add(self, frame: np.ndarray) -> np.ndarray | None:
        """Take the next frame `[37]`; returns the samples `[n * 1920]` of a piece that it completes, float32."""
        self.frames.append(frame)
        return self._decode() if len(self.frames) - self._decoded == self._size else None

    def rest(self) -> np.ndarray | None:
        """The samples of what no piece has held yet; None: there is nothing."""
        return self._decode() if len(self.frames) > self._decoded else None

    def _decode(self) -> np.ndarray:
        first = max(0, self._decoded - self._codec.left_context)
        codes = np.stack(self.frames[first:], axis=1)  # [37, T]
        samples = self._codec.decode_audio(codes)[(self._decoded - first) * self._codec.config.frame_size :]
        self._decoded, self._size = len(self.frames), PIECE
        return samples
