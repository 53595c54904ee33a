"""Text to speech with a checkpoint directory: what `say`, the demo and the reports stand on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.mix import AdapterSource
from mlx_voxclone.errors import CheckpointError, DataError, NotFiniteError
from mlx_voxclone.files.texts import spoken
from mlx_voxclone.model import generation
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import CFG_ALPHA
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.speech.options import MAX_SECONDS, NO_WORDS
from mlx_voxclone.speech.pieces import Pieces

REFERENCE_SECONDS = (1.0, 60.0)  # shorter says nothing about a voice, longer was never trained


@dataclass(frozen=True)
class SpeechResult:
    """What the model said.

    Attributes:
        samples: float32 `[T * 1920]` at 24 kHz, not clipped.
        codes: 0-based `[37, T]`, int32.
        ended: the model said END; False: cut off at the limit.
    """

    samples: np.ndarray
    codes: np.ndarray
    ended: bool

    @property
    def frames(self) -> int:
        return self.codes.shape[1]


class SpeechStream:
    """Speech as it is spoken: an iterator over float32 pieces `[n * 1920]` at 24 kHz, not clipped.

    The first piece comes after 10 frames (0.8 s), the next ones every 25. Each is decoded behind the codec's exact left
    context; joined they are what `result` gives. Of audio, one piece is held at a time. It never ends before its first
    frame.

    Args:
        prompt: embeddings `[1, T, dim]`; the other arguments are those of `speak`.

    Attributes:
        ended: the model said END; False: cut off at the limit; None: it is still speaking.

    Raises:
        CheckpointError: while iterating, numbers that are not finite.
    """

    def __init__(
        self,
        model: Voxtral,
        prompt: mx.array,
        *,
        max_frames: int,
        seed: int = 0,
        n_steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        on_frame: Callable[[int], None] | None = None,
    ) -> None:
        self._said, self._on_frame = Pieces(model.audio_tokenizer), on_frame
        self.ended: bool | None = None
        self._generator = generation.generate(
            model,
            prompt,
            max_frames=max_frames,
            seed=seed,
            n_steps=n_steps,
            cfg_alpha=cfg_alpha,
            may_be_empty=False,
        )
        self._pieces = self._speak()

    def __iter__(self) -> "SpeechStream":
        return self

    def __next__(self) -> np.ndarray:
        return next(self._pieces)

    @property
    def codes(self) -> np.ndarray:
        """What was said so far: 0-based `[37, T]`, int32."""
        return self._said.codes

    @property
    def frames(self) -> int:
        return len(self._said.frames)

    def result(self) -> SpeechResult:
        """Everything, from here to the end, at once."""
        pieces = list(self)
        samples = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)
        return SpeechResult(samples, self.codes, bool(self.ended))

    def _speak(self) -> Iterator[np.ndarray]:
        while self.ended is None:
            try:
                piece = self._said.add(next(self._generator))
            except StopIteration as stop:
                self.ended = bool(stop.value)
                piece = self._said.rest()
            except FloatingPointError as e:
                raise NotFiniteError(
                    f"{e} at frame {self.frames}: the weights are damaged, or the guidance is far too strong"
                ) from None
            else:
                if self._on_frame is not None:
                    self._on_frame(self.frames)
            if piece is not None:
                yield piece


def speak(
    model: Voxtral,
    ids: Sequence[int],
    voice: mx.array,
    *,
    max_frames: int,
    seed: int = 0,
    n_steps: int | None = None,
    cfg_alpha: float = CFG_ALPHA,
    on_frame: Callable[[int], None] | None = None,
) -> SpeechResult:
    """Generate and decode one prompt (`SpeechTokenizer.prompt`) with the voice's rows `[N, dim]`.

    `on_frame` hears of every frame how many there are now.
    """
    prompt = model.embed_prompt(ids, voice)
    stream = SpeechStream(
        model, prompt, max_frames=max_frames, seed=seed, n_steps=n_steps, cfg_alpha=cfg_alpha, on_frame=on_frame
    )
    return stream.result()


def check_reference(samples: np.ndarray, sampling_rate: int) -> None:
    """Refuse a reference clip that no voice can be taken from.

    Raises:
        DataError: no waveform of floats, under 1 s, over 60 s, not finite, or silent.
    """
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype.kind != "f":
        found = f"{samples.dtype} {list(samples.shape)}" if isinstance(samples, np.ndarray) else type(samples).__name__
        raise DataError(f"a reference clip is a path, or float samples [S] at {sampling_rate} Hz, mono; got {found}")
    _check_length(len(samples) / sampling_rate)
    if not np.isfinite(samples).all():
        raise DataError("the reference clip holds infinite or undefined numbers; record it again or take another")
    if np.abs(samples).max() < 1e-4:
        raise DataError("the reference clip is silent; record it again or take another")


def read_reference(path: str | Path) -> np.ndarray:
    """Read a reference clip: float32 `[samples]`, 24 kHz mono, at its own level.

    Raises:
        DataError: unreadable, or what `check_reference` refuses; hours of audio by their header, before any is decoded.
    """
    from mlx_voxclone.audio.decode import audio_info
    from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
    from mlx_voxclone.audio.source import AudioError

    longest = REFERENCE_SECONDS[1] + 1  # an MP3's header may err by a little; its samples decide
    stated = audio_info(path, most=longest)
    try:
        if stated.seconds > longest:
            _check_length(stated.seconds, stated.more)
        samples = read_audio(path)
        check_reference(samples, SAMPLE_RATE)
    except AudioError:
        raise  # names the file
    except DataError as e:
        raise DataError(f"{path}: {e}") from None
    return samples


def read_references(paths: str | Path | Sequence[str | Path]) -> list[np.ndarray]:
    """One or several clips of one voice, each as `read_reference` reads it.

    Raises:
        DataError: one that is refused, or together more than 60 s.
    """
    clips = [read_reference(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    _check_together(clips)
    return clips


def reference_codes(codec: Codec, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Codes `[37, N]` of clips of one voice, each encoded by itself, one after the other."""
    return np.concatenate([codec.audio_codes(clip) for clip in clips], axis=1)


def reference_warnings(clips: Sequence[np.ndarray]) -> list[str]:
    """What a user should know of clips of one voice: that they seem to hold two."""
    from mlx_voxclone.audio.prosody import two_pitches

    found = two_pitches(np.concatenate(clips))
    if found is None:
        return []
    low, high = found
    return [f"two people seem to speak in the reference (at about {low:.0f} and {high:.0f} Hz); take a clip of one"]


def _check_together(clips: Sequence[np.ndarray]) -> None:
    from mlx_voxclone.audio.io import SAMPLE_RATE

    total = sum(map(len, clips)) / SAMPLE_RATE
    if total > REFERENCE_SECONDS[1]:
        raise DataError(f"the reference clips are {total:.6g} s long together; take up to {REFERENCE_SECONDS[1]:.0f} s")


def _check_length(seconds: float, more: bool = False) -> None:
    """Refuse a length of so many seconds, or of `more`. Raises DataError."""
    low, high = REFERENCE_SECONDS
    if not low <= seconds <= high:
        found = f"more than {high:.0f} s" if more else f"{seconds:,.0f} s" if seconds >= 1e5 else f"{seconds:.6g} s"
        raise DataError(f"the reference clip is {found} long; take {low:.0f} to {high:.0f} s (3 to 25 s work best)")


Reference = str | Path | np.ndarray | mx.array  # one clip: where it lies, or its samples


class Speaker:
    """A checkpoint ready to speak.

    Use `Speaker.load`; `say` or `stream` with the name of one of `voices`, or with a reference where `has_encoder`.
    """

    def __init__(self, release, model: Voxtral, tokenizer):
        self.release, self.model, self.tokenizer = release, model, tokenizer

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        adapters: AdapterSource | str | Path | Sequence[AdapterSource | str | Path] = (),
        encoder: Path | None = None,
        dtype: mx.Dtype | None = None,
        quantisation: Quantisation | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Speaker":
        """Load a directory or hub id, on MLX's default device.

        Args:
            model: Voxtral directory or hub id.
            adapters: a directory of LoRA kept apart, or several, added up unfolded.
            encoder: encoder weights for a checkpoint that has none.
            dtype: of the LM and the head; None: bfloat16 on a GPU, float32 on the CPU. The codec is float32 always.
            quantisation: quantise LM and head while loading; adapters on top stay in full.
            progress: called with the bytes of weights quantised since the last call, and those in all.

        Raises:
            CheckpointError, ConfigError: what `Release` and the loader refuse; an adapter made for another base.
        """
        from mlx_voxclone.adapters.lora import apply_adapters
        from mlx_voxclone.adapters.mix import mix_adapters
        from mlx_voxclone.checkpoint.release import Release, load_model
        from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer

        release = Release(model)
        dtype = dtype or (mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16)
        loaded = load_model(
            release,
            parts={"lm", "head", "codec"},
            dtype=dtype,
            encoder_file=encoder,
            quantisation=quantisation,
            progress=progress,
        )
        if isinstance(adapters, AdapterSource | str | Path):
            adapters = [adapters]
        if adapters:
            apply_adapters(loaded, mix_adapters(adapters, release.adapters_for, release.path).changes)
        loaded.speaks_only = True
        tokenizer = SpeechTokenizer.of(release)
        return cls(release, loaded, tokenizer)

    @property
    def voices(self) -> list[str]:
        return self.release.voices()

    @property
    def has_encoder(self) -> bool:
        return self.model.audio_tokenizer.has_encoder

    @property
    def sampling_rate(self) -> int:
        return self.model.config.codec.sampling_rate

    def voice_rows(
        self, voice: str | mx.array | None = None, reference: "Reference | Sequence[Reference] | None" = None
    ) -> mx.array:
        """The rows `[N, dim]` of a named voice (rows stay as they are), or of a reference clip or several.

        A clip is the path of a recording, or float32 samples `[S]`, 24 kHz mono.

        Raises:
            DataError: neither or both given, or a clip that cannot serve.
            CheckpointError: no such voice; a reference clip where there is no encoder.
        """
        if (voice is None) == (reference is None):
            raise DataError("give either a voice or a reference clip")
        if voice is not None:
            return self.release.voice(voice.lower()) if isinstance(voice, str) else voice
        if not self.has_encoder:
            raise CheckpointError(
                f"{self.release.path}: has no codec encoder, so it cannot take a reference clip; bake one in, give"
                f" one (--encoder FILE), or use a voice: {', '.join(self.voices)}"
            )
        clips = [self._clip(one) for one in (reference if isinstance(reference, list | tuple) else [reference])]
        if not clips:
            raise DataError("no reference clip given; give at least one")
        _check_together(clips)
        return self.model.voice_embedding(reference_codes(self.model.audio_tokenizer, clips))

    def _clip(self, reference: "Reference") -> np.ndarray:
        if isinstance(reference, str | Path):
            return read_reference(reference)
        samples = np.array(reference) if isinstance(reference, mx.array) else reference
        check_reference(samples, self.sampling_rate)
        return samples

    def prompt(self, text: str, rows: mx.array, max_seconds: float = MAX_SECONDS) -> list[int]:
        """Ids of the prompt by which a text is said with a voice's rows `[N, dim]`: all that is refused about a text is
        refused here, before anything is computed.

        Raises:
            DataError: an empty text; more tokens than the model's context has room for beside the voice and the speech.
        """
        return self.tokenizer.prompt(text, rows.shape[0], self._most_frames(max_seconds))

    def _most_frames(self, seconds: float) -> int:
        return max(1, round(seconds * self.model.config.codec.frame_rate))

    def say(self, text: str, voice: str | mx.array | None = None, reference=None, **options) -> SpeechResult:
        """Speak a text to its end; arguments and errors are those of `stream`."""
        return self.stream(text, voice, reference, **options).result()

    def stream(
        self,
        text: str,
        voice: str | mx.array | None = None,
        reference: "Reference | Sequence[Reference] | None" = None,
        *,
        seed: int = 0,
        max_seconds: float = MAX_SECONDS,
        n_steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        on_frame: Callable[[int], None] | None = None,
    ) -> SpeechStream:
        """Speak a text piece by piece; see `voice_rows` for the voice and its errors.

        A larger `max_seconds` changes nothing of what is said before it. `on_frame` hears of every frame how many there
        are now.

        Raises:
            DataError: a text without a word, or one that does not fit the model's context.
        """
        text = spoken(text)
        if not any(character.isalnum() for character in text):
            raise DataError(NO_WORDS)
        self.tokenizer.prompt(text, 1, self._most_frames(max_seconds))  # before a reference clip is encoded
        rows = self.voice_rows(voice, reference)
        ids = self.prompt(text, rows, max_seconds)
        return SpeechStream(
            self.model,
            self.model.embed_prompt(ids, rows),
            max_frames=self._most_frames(max_seconds),
            seed=seed,
            n_steps=n_steps,
            cfg_alpha=cfg_alpha,
            on_frame=on_frame,
        )
