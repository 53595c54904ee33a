"""What `prepare` keeps and how."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_voxclone.errors import DataError

WHISPER_MODEL = "mlx-community/whisper-large-v3-turbo"
LETTERS_PER_SECOND = 15  # of speech, spaces among them
LOWEST_RATE = 1000  # Hz; below, a frame of 10 ms has too few samples to have a level, and there is no speech


@dataclass(frozen=True)
class PrepareOptions:
    """What to keep and how; the `data` section of a configuration by the same names.

    Attributes:
        speaker: use only this speaker of the source.
        language: code for recordings whose manifest names none.
        min_seconds, max_seconds: of a clip. Longer recordings are cut at pauses into 2 s (or `min_seconds`) to
            `max_seconds`; transcribed ones stay whole up to 30 s.
        heldout: fraction that is measured by and never trained on; drawn where the source does not say what that is.
        heldout_speakers: speakers held out altogether.
        normalise: bring the speech of every recording to -23 dB of full scale.
        trim_silence: cut silence at both ends.
        min_sampling_rate: Hz; at least 1000.
        max_clipped: largest fraction of clipped samples, see `audio.clipping`.
        transcribe: make missing texts with `whisper_model` (directory or hub id).
        seed: of the split.
    """

    speaker: str | None = None
    language: str | None = None
    min_seconds: float = 1.0
    max_seconds: float = 20.0
    heldout: float = 0.1
    heldout_speakers: Sequence[str] = ()
    normalise: bool = False
    trim_silence: bool = True
    min_sampling_rate: int = 16_000
    max_clipped: float = 0.01
    transcribe: bool = False
    whisper_model: str = WHISPER_MODEL
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "heldout_speakers", tuple(self.heldout_speakers))
        if not 0 < self.min_seconds < self.max_seconds:
            raise DataError(
                f"min_seconds ({self.min_seconds:g}) must be above 0 and below max_seconds ({self.max_seconds:g})"
            )
        if self.max_seconds < 1:
            raise DataError(f"max_seconds ({self.max_seconds:g}) must be at least 1")
        if not 0 <= self.heldout < 1:
            raise DataError(f"heldout ({self.heldout:g}) is a fraction from 0 to below 1")
        if self.min_sampling_rate < LOWEST_RATE:
            raise DataError(f"min_sampling_rate ({self.min_sampling_rate:g}) must be at least {LOWEST_RATE} Hz")
        if not 0 <= self.max_clipped <= 1:
            raise DataError(f"max_clipped ({self.max_clipped:g}) is a fraction from 0 to 1")
