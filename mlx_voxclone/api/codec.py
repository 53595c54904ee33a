"""The codec from Python: audio to codes and back."""

import mlx.core as mx
import numpy as np

from mlx_voxclone.api.shared import Place, computing, is_place
from mlx_voxclone.api.sound import read_audio, samples_of
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.speech.speaker import Speaker

Clip = Place | np.ndarray | mx.array


class SpeechCodec:
    """Audio to codes and back; `TextToSpeech.codec`.

    Codes are 0-based: the first of the 37 of a frame is semantic, the others acoustic. A frame is 1920 samples, 80 ms.
    """

    def __init__(self, speaker: Speaker):
        self._codec: Codec = speaker.model.audio_tokenizer
        self._where = speaker.release.path

    def encode(self, audio: Clip) -> np.ndarray:
        """Codes of a recording of any length, at its own level.

        Args:
            audio: its path, or float samples `[S]` at 24 kHz, at least one.

        Returns:
            int32 `[37, ceil(S / 1920)]`.

        Raises:
            DataError: unreadable, empty or not finite.
            CheckpointError: the checkpoint has no encoder.
        """
        if not self._codec.has_encoder:
            raise CheckpointError(f"{self._where}: has no codec encoder; load it with encoder=, or one that has it")
        samples = read_audio(audio) if is_place(audio) else samples_of(audio, "audio")
        if not len(samples):
            raise DataError("audio: holds no samples")
        with computing():
            return self._codec.audio_codes(samples)

    def decode(self, codes: "np.ndarray | mx.array") -> np.ndarray:
        """The sound of codes.

        Args:
            codes: integers `[37, T]`, 0-based.

        Returns:
            float32 `[T * 1920]` at 24 kHz, not clipped.

        Raises:
            DataError: another shape, or a code outside its codebook.
        """
        with computing():
            try:
                return self._codec.decode_audio(np.asarray(codes))
            except ValueError as e:
                raise DataError(str(e)) from None
