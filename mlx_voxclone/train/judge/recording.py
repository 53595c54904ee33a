"""One recording whose words are known: its codes as `voxclone encode --text` writes them.

The method is that of `judge.py`; here stand the limits of a single recording, and how a checkpoint is loaded for it.
"""

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.speech.options import MAX_SECONDS
from mlx_voxclone.train.judge.judge import ROUNDS, CodeJudge, Evidence, Judged

OWN_VOICE_SECONDS = 12.0  # of the recording itself, where no other recording gives the voice prompt
PASSES = ROUNDS + 1  # through the language model
_SILENT = 1e-4  # peak, full scale is 1: as for a reference clip


def check_recording(samples: np.ndarray, sampling_rate: int) -> None:
    """Refuse a recording `[samples]` in which no text can be found.

    Raises:
        DataError: silent, or longer than the model speaks at a time (60 s).
    """
    seconds = len(samples) / sampling_rate
    if seconds > MAX_SECONDS:
        raise DataError(
            f"{seconds:.6g} s of audio, but --text is for up to {MAX_SECONDS:.0f} s; cut it into sentences"
            " (voxclone prepare) and give each its own text"
        )
    if np.abs(samples).max() < _SILENT:
        raise DataError("the recording is silent, so it holds no speech; record it again, or encode it without a text")


def own_voice_frames(codec: CodecConfig, frames: int) -> int:
    """How many of a recording's own frames serve as its voice prompt."""
    return min(frames, round(OWN_VOICE_SECONDS * codec.frame_rate))


class RecordingJudge:
    """Judges recordings with a checkpoint's language model and flow head. Built lazily: weights are read in `judge`.

    Args:
        release: checkpoint; its encoder is not used.

    Raises:
        CheckpointError: a tokenizer or weights that do not fit.
    """

    def __init__(self, release: Release):
        self.release = release
        self._tokenizer = SpeechTokenizer.of(release)

    def check_text(self, text: str, frames: int, voice_frames: int) -> None:
        """Refuse a text that does not fit into the model's context together with the recording.

        Args:
            frames: of the recording.
            voice_frames: of the voice prompt.

        Raises:
            DataError: too long, or no words in it.
        """
        self._tokenizer.prompt(text, voice_frames + 1, frames)

    def judge(
        self,
        text: str,
        latents: np.ndarray,
        voice: np.ndarray,
        on_pass: Callable[[], object] = lambda: None,
    ) -> Judged:
        """Judge one recording.

        Args:
            text: its words.
            latents: float32 `[T, D]`, finite, the encoder's output before quantisation.
            voice: 0-based codes `[37, N]`, the voice prompt.
            on_pass: called after each of the `PASSES` passes.

        Raises:
            CheckpointError: the model's numbers are not finite, its weights are damaged.
        """
        dtype = mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16
        model = load_model(self.release, parts=["lm", "head", "codec"], dtype=dtype)
        judge = CodeJudge(model, self._tokenizer.prompt)
        try:
            return judge.judge([Evidence("recording", text, latents, voice)], on_pass=on_pass)[0]
        except CheckpointError as e:
            raise CheckpointError(f"{self.release.path}: {e}") from None


def judged_facts(judged: Judged, own: np.ndarray) -> dict[str, float]:
    """Figures of one recording.

    Args:
        own: the encoder's codes, int32 `[37, T]`.

    Returns:
        `changed_semantic` (share of the semantic codes), `mean_confidence` (posterior probability), `text_nats` and
        `raw_nats` (nats per frame of the judged and of the encoder's semantic codes).
    """
    return {
        "changed_semantic": float((judged.codes[0] != own[0]).mean()),
        "mean_confidence": float(judged.confidence.mean()),
        "text_nats": judged.text_nats,
        "raw_nats": judged.raw_nats,
    }
