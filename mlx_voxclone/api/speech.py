"""Text to speech from Python: a checkpoint, its voices, voices from recordings, its codec."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.adapters.mix import AdapterSource
from mlx_voxclone.api.codec import Clip, SpeechCodec
from mlx_voxclone.api.shared import Place, computing, file_of, is_place, path_of, text_of
from mlx_voxclone.api.sound import samples_of
from mlx_voxclone.api.stream import Stream, check_narration, check_options, check_text, listener, narrated
from mlx_voxclone.api.voice import Voice, rows_of
from mlx_voxclone.errors import CheckpointError, DataError, VoxcloneWarning
from mlx_voxclone.files.hub import ENCODER, VOICE_SUFFIXES, is_address, local
from mlx_voxclone.files.paths import expanded_part
from mlx_voxclone.model.config import CFG_ALPHA
from mlx_voxclone.model.widths import GROUP_SIZE, Quantisation
from mlx_voxclone.process.progress import Progress, told_to, weight_bar
from mlx_voxclone.speech.chunks import split_text
from mlx_voxclone.speech.narration import Narration
from mlx_voxclone.speech.options import MAX_SECONDS, PAUSE, STREAM_BATCH, TRIES, voice_file
from mlx_voxclone.speech.speaker import Speaker, read_reference, reference_warnings
from mlx_voxclone.text.forms import as_said, form_of

Adapters = Place | AdapterSource | Sequence[Place | AdapterSource]


def load(
    model: Place,
    *,
    adapters: Adapters = (),
    encoder: Place | None = None,
    dtype: mx.Dtype | None = None,
    bits: int | None = None,
    group_size: int = GROUP_SIZE,
    progress: Progress | None = None,
) -> "TextToSpeech":
    """Load a checkpoint, ready to speak, on MLX's default device (`mx.set_default_device` changes it).

    Args:
        model: Voxtral directory, or a hub id to fetch (`OWNER/NAME`, `hf://OWNER/NAME[@REVISION]`). A download shows
            huggingface-hub's own bars on a terminal.
        adapters: LoRA to speak with, kept apart: a directory, `hf://OWNER/NAME`, either with `=WEIGHT` behind it, or
            several of them, which are added up.
        encoder: encoder weights for a checkpoint that has none: `.safetensors` or `hf://OWNER/NAME`.
        dtype: of the language model and the head; None: bfloat16 on a GPU, float32 on the CPU.
        bits: quantise the language model and the head to 8, 6 or 4 bits, tensor by tensor while they are read. None:
            as they are stored, which may be quantised.
        group_size: inputs that share a scale when quantised: 32, 64 or 128.
        progress: called with the bytes of weights quantised, those in all, and `"weights"`.

    Raises:
        CheckpointError: no such model, weights that do not fit, adapters of another model; `bits` of a model that is
            quantised.
        ConfigError: a `params.json` that cannot be used, what is no path, or other bits or groups.
    """
    quantisation = None if bits is None else Quantisation(bits, group_size)
    name = text_of(model, "model")
    weights = None if encoder is None else local(file_of(encoder, "encoder"), ENCODER)
    with computing(), told_to(progress, None), weight_bar() as advance:
        speaker = Speaker.load(
            name,
            adapters=adapter_sources(adapters),
            encoder=weights,
            dtype=dtype,
            quantisation=quantisation,
            progress=advance,
        )
        _read(speaker.model)
        return TextToSpeech(speaker)


def _read(model: nn.Module) -> None:
    """Read all weights now: MLX evaluates an array that is still lazy only in the thread that made it."""
    mx.eval([array for module in model.modules() for array in module.values() if isinstance(array, mx.array)])


def adapter_sources(adapters: Adapters | None) -> list[AdapterSource]:
    """One or several adapters as `load` and `bake` take them.

    Raises:
        CheckpointError: a weight that is 0 or not finite, an address with nothing to be had.
        ConfigError: no path.
    """
    if adapters is None:
        return []
    return [_adapter_source(source) for source in (adapters if isinstance(adapters, list | tuple) else [adapters])]


def _adapter_source(source: object) -> AdapterSource:
    if isinstance(source, AdapterSource):
        return source
    if isinstance(source, str) and source:
        return AdapterSource.parse(expanded_part(source))
    return AdapterSource(path_of(source, "adapters"))


class TextToSpeech:
    """A checkpoint that speaks; `load` makes it.

    Threads may share it: they compute one after the other, a chunk of speech at a time. What it holds in memory goes
    when nothing refers to it any more (`del tts`; `mx.clear_cache()` returns MLX's own reserve as well).
    """

    def __init__(self, speaker: Speaker):
        self._speaker = speaker

    def __repr__(self) -> str:
        return f"<TextToSpeech {self._speaker.release.path}: {len(self.voices)} voices>"

    @property
    def voices(self) -> list[str]:
        """Names of the checkpoint's voices."""
        return self._speaker.voices

    @property
    def has_encoder(self) -> bool:
        """Whether it can take a voice from a recording, and encode audio."""
        return self._speaker.has_encoder

    @property
    def sampling_rate(self) -> int:
        """Of all audio, in Hz: 24,000."""
        return self._speaker.sampling_rate

    @property
    def codec(self) -> SpeechCodec:
        """The codec, for audio to codes and back."""
        return SpeechCodec(self._speaker)

    def say(
        self,
        text: str,
        voice: "str | Path | Voice | np.ndarray | mx.array",
        *,
        seed: int = 0,
        max_seconds: float = MAX_SECONDS,
        steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        language: str = "en",
        verbatim: bool = False,
        numbers_in_words: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Speak a text.

        Args:
            text: what to say, up to what fits into the model's context; `narrate` takes longer ones.
            voice: one of `voices`; a voice of `voice_from`; a file of one (`.safetensors`, `.pt`, `hf://OWNER/NAME`);
                rows `[N, dim]`, the END row last.
            seed: same seed, same speech on the same device: 0 to 2^63 - 1.
            max_seconds: cut off there if the model does not end, with a `VoxcloneWarning`.
            steps: Euler steps per frame, 1 to 1000; None: the checkpoint's (7).
            cfg_alpha: guidance; 1.0 is none.
            language: code; English brings English words for amounts of money.
            verbatim: speak the text as it is written; without it, signs and markup are put as mlx-audio puts them.
            numbers_in_words: put numbers, dates and units in words of the language (extra `numbers`).
            progress: called with the frames (80 ms) so far, the most there can be, and `"speaking"`.

        Returns:
            float32 `[S]` at 24 kHz, S a multiple of 1920, not clipped.

        Raises:
            DataError: an empty text or one that is too long, what is no voice, or nothing was said.
            CheckpointError: no such voice, or rows of another model.
            NotFiniteError: damaged weights.
            ConfigError: an option out of its bounds.
        """
        stream = self.stream(
            text,
            voice,
            seed=seed,
            max_seconds=max_seconds,
            steps=steps,
            cfg_alpha=cfg_alpha,
            language=language,
            verbatim=verbatim,
            numbers_in_words=numbers_in_words,
            progress=progress,
        )
        return np.concatenate(list(stream))

    def stream(
        self,
        text: str,
        voice: "str | Path | Voice | np.ndarray | mx.array",
        *,
        seed: int = 0,
        max_seconds: float = MAX_SECONDS,
        steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        language: str = "en",
        verbatim: bool = False,
        numbers_in_words: bool = False,
        progress: Progress | None = None,
    ) -> Stream:
        """Speak a text piece by piece, the first 0.8 s long and the next ones 2 s; joined they are what `say` returns.

        Arguments and errors are those of `say`. All that can be refused is refused here, before the first chunk.
        """
        check_text(text)
        check_options(seed, max_seconds, steps, cfg_alpha)
        text = as_said(text, language, verbatim=verbatim, numbers=numbers_in_words)
        seed, steps = int(seed), None if steps is None else int(steps)
        most = max(1, round(max_seconds * self._speaker.model.config.codec.frame_rate))

        def on_frame(n: int) -> None:
            if progress is not None:
                progress(n, most, "speaking")

        with computing():
            spoken = self._speaker.stream(
                text,
                self._voice(voice),
                seed=seed,
                max_seconds=max_seconds,
                n_steps=steps,
                cfg_alpha=cfg_alpha,
                on_frame=on_frame,
            )
        return Stream(spoken, max_seconds)

    def narrate(
        self,
        text: str,
        voice: "str | Path | Voice | np.ndarray | mx.array",
        *,
        language: str | None = None,
        pause: float = PAUSE,
        batch: int = STREAM_BATCH,
        tries: int = TRIES,
        verify: bool = False,
        whisper_model: Place | None = None,
        seed: int = 0,
        steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        verbatim: bool = False,
        numbers_in_words: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """Speak a text of any length: in chunks at sentences, several at once, with pauses between them.

        Args:
            text: an empty line ends a paragraph; other line breaks are blanks in wrapped prose, and pauses after
                verses, headings, items of lists and rows of tables.
            language: code, e.g. `de`: where sentences end, in which words, and what `verify` expects. None: as in
                English, and the Whisper finds out.
            pause: seconds of silence after a sentence; twice as long after a paragraph, shorter after a verse.
            batch: chunks at once; more are faster, take more memory, and the first of them comes later.
            tries: how often a chunk is spoken at most, if it is silent, endless or of an unlikely length: 1 to 20.
            verify: listen with a Whisper (extras `transcribe`, `evaluate`) and keep the try of which most is
                understood. It is in memory until the iterator ends or is gone.
            whisper_model: which one: a directory in mlx-whisper's format or a hub id; None: whisper-large-v3-turbo.
            progress: called with the chunks so far, how many there are, and `"speaking"`.

        The other arguments and the errors are those of `say`; all that can be refused is refused here.

        Returns:
            An iterator over float32 `[S]` at 24 kHz, one per chunk with the pause behind it. A chunk that may not be
            right, although it was spoken `tries` times, is a `VoxcloneWarning`; so is, at the end, a Whisper that heard
            too much wrong to choose.

        Raises:
            DataError: also a Whisper that cannot be loaded, is not installed or does not know the language.
        """
        check_text(text)
        check_options(seed, MAX_SECONDS, steps, cfg_alpha)
        check_narration(pause, batch, tries, verify, whisper_model)
        chosen = language or "en"
        form = form_of(chosen, verbatim=verbatim, numbers=numbers_in_words)
        chunks = split_text(text, chosen, float(pause), form)
        with contextlib.ExitStack() as until, computing():
            rows = self._speaker.voice_rows(self._voice(voice))
            listen = until.enter_context(listener(whisper_model))(language) if verify else None
            narration = Narration(
                self._speaker,
                chunks,
                rows,
                seed=int(seed),
                batch=int(batch),
                tries=int(tries),
                listen=listen,
                n_steps=None if steps is None else int(steps),
                cfg_alpha=cfg_alpha,
            )
            return narrated(iter(narration), chunks, progress, until.pop_all())

    def voice_from(self, *clips: "Clip | Sequence[Clip]") -> "Voice":
        """The voice of one recording, or of several taken together, up to 60 s in all (3 to 25 s work best).

        Args:
            clips: paths of recordings, or float samples `[S]` at 24 kHz; one list of them will do, too. Or one file of
                a voice (`.safetensors`, `.pt`, `hf://OWNER/NAME`), which is read.

        Raises:
            DataError: unreadable, under 1 s, over 60 s, silent or not finite.
            CheckpointError: the checkpoint has no encoder (`load(..., encoder=...)`), or a file that is no voice of it.

        Two people in one recording are a `VoxcloneWarning`.
        """
        listed: list[Any] = list(clips[0]) if len(clips) == 1 and isinstance(clips[0], list | tuple) else list(clips)
        if len(listed) == 1 and _is_voice_file(listed[0]):
            return Voice(self._file_rows(listed[0]))
        if not listed:
            raise DataError("no recording given; give at least one")
        if not self.has_encoder:
            raise CheckpointError(
                f"{self._speaker.release.path}: has no codec encoder, so it cannot take a voice from a recording; load"
                " it with encoder=, or a checkpoint that has one baked in"
            )
        samples = [
            read_reference(path_of(clip, "recording")) if is_place(clip) else samples_of(clip, "recording")
            for clip in listed
        ]
        with computing():
            voice = Voice(self._speaker.voice_rows(reference=samples))
        for line in reference_warnings(samples):
            warnings.warn(line, VoxcloneWarning, stacklevel=2)
        return voice

    def _voice(self, voice) -> mx.array | str:
        if isinstance(voice, Voice):
            rows = voice.rows
        elif _is_voice_file(voice):
            return self._file_rows(voice)
        elif is_place(voice):
            if not isinstance(voice, str) or "." in voice:  # no voice's name has a dot
                raise DataError(f"{voice}: neither a voice's name nor its file; of a recording, voice_from makes one")
            return voice
        elif isinstance(voice, np.ndarray | mx.array):
            rows = rows_of(voice)
        else:
            known = ", ".join(self.voices) or "none"
            raise DataError(f"{voice!r:.80} is no voice; take a name ({known}) or one that voice_from makes")
        self._speaker.release.check_voice_rows("voice", *rows.shape)
        return rows

    def _file_rows(self, place: Place) -> mx.array:
        file = place if isinstance(place, str) and is_address(place) else text_of(place, "voice")
        with computing():
            return self._speaker.release.voice_of_file(voice_file(file))


def speaker_of(tts: TextToSpeech) -> Speaker:
    """What a `TextToSpeech` speaks with, for pages of this package that bound a text themselves."""
    return tts._speaker


def _is_voice_file(voice: object) -> bool:
    return is_place(voice) and ((isinstance(voice, str) and is_address(voice)) or Path(voice).suffix in VOICE_SUFFIXES)
