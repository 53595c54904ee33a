"""What `prepare` keeps and how."""

from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from mlx_voxclone.data.listings.names import composed
from mlx_voxclone.errors import DataError
from mlx_voxclone.settings.findings import describe
from mlx_voxclone.settings.schema import PrepareSection

WHISPER_MODEL = "mlx-community/whisper-large-v3-turbo"  # where one is needed and none is named
LETTERS_PER_SECOND = 15  # of speech, spaces among them


class PrepareOptions(PrepareSection):
    """What to keep and how: keys, defaults and bounds of a configuration's section `data`, and a seed.

    Attributes:
        speaker: use only this speaker of the source.
        language: code for recordings whose manifest names none.
        min_seconds, max_seconds: of a clip. Longer recordings are cut at pauses into 2 s (or `min_seconds`) to
            `max_seconds`; transcribed ones stay whole up to 30 s, and are cut with their text beyond if a Whisper hears
            them. A shorter part is widened into the silence around it, or left out where there is too little.
        heldout: fraction that is measured by and never trained on; drawn where the source does not say what that is.
        heldout_speakers: speakers held out altogether.
        normalise: bring the speech of every recording to -23 dB of full scale.
        trim_silence: cut silence at both ends.
        speech_detector: `levels`, `silero` (extra `vad`), or `auto`: Silero VAD for noisy recordings where it is there.
        min_sampling_rate: Hz; at least 1000.
        max_clipped: largest fraction of clipped samples, see `audio.clipping`.
        numbers_in_words: of the texts, in each recording's language (extra `numbers`).
        transcribe: make missing texts with a Whisper.
        check_texts: leave out clips whose text is not what a Whisper hears.
        whisper_model: directory or hub id; None: `WHISPER_MODEL` where one is needed. Where one is named or needed,
            recordings over 30 s with a text are cut together with it.
        recogniser: transcribes in the Whisper's place: `mlx-audio:ID`, any recogniser of mlx-audio.
        seed: of the split.

    Raises DataError (one line) for any value that cannot be used.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def __init__(self, **values: Any) -> None:
        if isinstance(values.get("heldout_speakers"), tuple):
            values["heldout_speakers"] = list(values["heldout_speakers"])
        try:
            super().__init__(**values)
        except ValidationError as e:
            raise DataError(describe(e)[1]) from None

    @field_validator("speaker", "heldout_speakers")
    @classmethod
    def _composed(cls, value: str | list[str] | None) -> str | list[str] | None:
        """Names as speakers have them, whichever way they were typed."""
        if isinstance(value, list):
            return [composed(name) for name in value]
        return None if value is None else composed(value)

    @property
    def whisper(self) -> str:
        """The Whisper that is used where one is needed."""
        return self.whisper_model or WHISPER_MODEL

    @property
    def hears(self) -> bool:
        """Whether a Whisper is used."""
        transcribes = self.transcribe and self.recogniser is None
        return transcribes or self.check_texts or self.whisper_model is not None
