"""`voxclone encode`: audio to codes, latents and voice embedding, by an encoder or by optimising without one.

With a text, given or transcribed, the language model corrects the encoder's codes (`train/judge/judge.py`).
"""

import argparse
import math
import time

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared, encoder_path
from mlx_voxclone.data.options import WHISPER_MODEL
from mlx_voxclone.files.texts import spoken
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.text.forms import as_learnt

ENCODER, OPTIMISE = "encoder", "optimise"


_DESCRIPTION = """\
Encode a recording. The output holds `codes` int32 [37, T] (0-based), `latents` float32 [T, 292] and
`embedding` float32 [T + 1, dim], the rows that represent the voice in a prompt (END row last).
Without an encoder, --method optimise searches for latents that the decoder turns into the recording. It is
slow, and its codes sound like the recording but are not those that an encoder would give.

With --text, `codes` are judged: the frozen language model, which predicts the codes of these words, corrects
the encoder's. `latents` stay the encoder's, and `embedding` is made from the encoder's own codes: rows of
judged codes are closer to the model's own voices, and further from the speaker. `confidence`
float32 [T] is the posterior probability of each judged semantic code (0 to 1). The metadata hold `text`,
`changed_semantic` (share of the semantic codes), `mean_confidence`, `text_nats` and `raw_nats` (how
unlikely the judged and the encoder's semantic codes are after voice and text, nats per frame).
With --transcribe, Whisper writes the text, which is printed; `transcribed_by` in the metadata names the model."""


def _options(parser: Parser) -> None:
    parser.add_argument("audio", metavar="AUDIO", help="any file soundfile reads; resampled to 24 kHz mono")
    add_shared(parser, "--model")
    add_shared(parser, "--output", metavar="X.safetensors", help="file to write; must not exist")
    parser.add_argument(
        "--method",
        choices=(ENCODER, OPTIMISE),
        default=ENCODER,
        help="optimise needs no encoder, and starts from the encoder's latents where there is one",
    )
    add_shared(parser, "--encoder", note="; for a checkpoint that has none")
    add_shared(parser, "--normalise")
    judged = parser.add_argument_group("judged codes")
    words = judged.add_mutually_exclusive_group()
    add_shared(words, "--text", note=" of the recording (at most 60 s), by which its codes are judged")
    add_shared(words, "--transcribe", note=" and judge by that text; the recording is at most 30 s long")
    add_shared(judged, "--whisper-model", default=None, note=f"; for --transcribe (default: {WHISPER_MODEL})")
    add_shared(judged, "--language", note=", of the recording; for --transcribe (default: Whisper detects it)")
    add_shared(
        judged,
        "--ref-audio",
        note="; the judge's voice prompt, best not from AUDIO itself (default: the first 12 s of AUDIO)",
    )
    search = parser.add_argument_group("options of --method optimise")
    add_shared(search, "--max-steps", note=", for each chunk of 4 s (default: 300)")
    add_shared(
        search,
        "--lr",
        note=", in units of the codebook's spread and of the acoustic latents before tanh (default: 0.1)",
    )
    search.add_argument(
        "--patience", type=int, metavar="N", help="end a chunk after N steps without a gain of 0.1 %% (default: 50)"
    )
    add_shared(search, "--seed", note=", of the search's start")
    add_shared(parser, "--device", "--quiet")


def _check(parser: Parser, options: argparse.Namespace) -> None:
    judging = "--transcribe" if options.transcribe else "--text" if options.text is not None else None
    if judging is None and options.ref_audio:
        parser.error("--ref-audio is for --text and --transcribe")
    for name, value in {"--whisper-model": options.whisper_model, "--language": options.language}.items():
        if value is not None and not options.transcribe:
            parser.error(f"{name} is for --transcribe")
    if judging is not None and options.method != ENCODER:
        parser.error(f"{judging} is for --method encoder: only an encoder's latents say which other codes are likely")
    if options.text is not None and not options.text.strip():
        parser.error("--text is empty; give the words of the recording, or leave it out")
    if options.text is not None:
        spoken(options.text, "--text")
        options.text = as_learnt(options.text, options.language)
        if options.text is None:
            parser.error("--text has no letter and no digit; give the words of the recording, or leave it out")
    given = {"--max-steps": options.max_steps, "--lr": options.lr, "--patience": options.patience}
    for name, value in given.items():
        if value is None:
            continue
        if options.method != OPTIMISE:
            parser.error(f"{name} is for --method optimise")
        if name == "--lr" and not 0 < value < math.inf:
            parser.error(f"{name} must be above 0 and finite, got {value:g}")
        if name != "--lr" and value < 1:
            parser.error(f"{name} must be at least 1, got {value}")


@command(_DESCRIPTION, _options, _check)
def main(options: argparse.Namespace) -> None:
    from pathlib import Path

    import mlx.core as mx
    import numpy as np

    from mlx_voxclone.audio.io import normalise_level, read_audio
    from mlx_voxclone.checkpoint.release import Release, load_model
    from mlx_voxclone.checkpoint.writer import save_tensors
    from mlx_voxclone.errors import CheckpointError

    output = Path(options.output)
    if output.exists():
        raise CheckpointError(f"{output}: exists already; choose another name or move it away")
    wave = read_audio(options.audio)
    release = Release(options.model)
    if options.method == ENCODER and not release.has_encoder and options.encoder is None:
        raise CheckpointError(
            f"{release.path}: has no codec encoder (the release lacks it); give --encoder FILE or a baked checkpoint,"
            " or do without one (--method optimise, slow)"
        )
    by = _transcribe(wave, options) if options.transcribe else {}
    judging = None if options.text is None else _Judging(release, wave, options)
    if options.normalise:
        wave = normalise_level(wave)
    model = load_model(release, parts=["lm", "codec"], encoder_file=encoder_path(options.encoder))
    codec = model.audio_tokenizer
    latents = _encode(codec, wave, options) if codec.has_encoder else None
    if options.method == OPTIMISE:
        latents = _optimise(codec, wave, latents, options)
    codes = np.array(codec.quantize(latents[None])[0])
    embedding = model.voice_embedding(codes).astype(mx.float32)
    tensors, metadata = {"codes": codes, "latents": latents, "embedding": embedding}, None
    if judging is not None:
        changes, metadata = judging.judge(codec, np.array(latents), codes)
        tensors, metadata = tensors | changes, metadata | by
    save_tensors(output, tensors, metadata)
    message(f"{len(wave) / codec.config.sampling_rate:.2f} s -> {codes.shape[1]} frames of {codes.shape[0]} codes")
    print(output)


def _transcribe(wave, options: argparse.Namespace) -> dict[str, str]:
    """`--transcribe`: puts into `options.text` what a Whisper understands; which one it is, for the metadata.

    Args:
        wave: the recording `[samples]` at 24 kHz.
    """
    from mlx_voxclone.audio.io import SAMPLE_RATE
    from mlx_voxclone.data.transcribe import LONGEST_SECONDS, Transcriber
    from mlx_voxclone.errors import DataError
    from mlx_voxclone.train.judge.recording import check_recording

    seconds, model = len(wave) / SAMPLE_RATE, options.whisper_model or WHISPER_MODEL
    if seconds > LONGEST_SECONDS:
        raise DataError(
            f"{options.audio}: {seconds:.6g} s of audio, but --transcribe is for up to {LONGEST_SECONDS:g} s; cut it"
            " into sentences (voxclone prepare), or give its words with --text"
        )
    try:
        check_recording(wave, SAMPLE_RATE)  # in silence, too, a Whisper hears words
    except DataError as e:
        raise DataError(f"{options.audio}: {e}") from None
    with Transcriber(model) as transcriber:
        text, language = transcriber.transcribe(options.audio, options.language)
    if text is None:
        raise DataError(
            f"{options.audio}: {model} recognised no speech in it; give its words with --text, or leave"
            " out --transcribe"
        )
    message(f"transcribed ({language}): {text}")
    options.text = as_learnt(text, language)
    return {"transcribed_by": model}


class _Judging:
    """`--text`: everything that can be refused is refused at the start, before weights are read.

    Args:
        wave: the recording `[samples]` at its own level.
    """

    def __init__(self, release, wave, options: argparse.Namespace):
        from mlx_voxclone.audio.io import normalise_level
        from mlx_voxclone.errors import DataError
        from mlx_voxclone.speech.speaker import read_references, reference_warnings
        from mlx_voxclone.train.judge.recording import RecordingJudge, check_recording, own_voice_frames

        self.options, codec = options, release.config.codec
        clips = read_references(options.ref_audio or [])
        for line in reference_warnings(clips) if clips else []:
            message(f"warning: {line}")
        self.clips = [normalise_level(clip) for clip in clips] if options.normalise else clips
        frames = codec.n_frames(len(wave))
        self.own_frames = own_voice_frames(codec, frames)
        voice_frames = sum(codec.n_frames(len(clip)) for clip in clips) or self.own_frames
        try:
            check_recording(wave, codec.sampling_rate)
            self.judging = RecordingJudge(release)
            self.judging.check_text(options.text, frames, voice_frames)
        except DataError as e:
            raise DataError(f"{options.audio}: {e}") from None

    def judge(self, codec, latents, codes):
        """The tensors that replace or join the encoder's, and the metadata."""
        from mlx_voxclone.process.progress import progress_bar
        from mlx_voxclone.speech.speaker import reference_codes
        from mlx_voxclone.train.judge.recording import PASSES, judged_facts

        voice = reference_codes(codec, self.clips) if self.clips else codes[:, : self.own_frames]
        with progress_bar(quiet=self.options.quiet, total=PASSES, unit="pass", desc="judging") as bar:
            judged = self.judging.judge(self.options.text, latents, voice, on_pass=bar.update)
        facts = judged_facts(judged, codes)
        message(
            f"judged: {100 * facts['changed_semantic']:.1f} % of the semantic codes changed, mean confidence"
            f" {facts['mean_confidence']:.3f}, {facts['text_nats']:.3f} nats per frame after the text"
            f" (the encoder's own codes: {facts['raw_nats']:.3f})"
        )
        metadata = {"text": self.options.text} | {name: f"{value:.6g}" for name, value in facts.items()}
        return {"codes": judged.codes, "confidence": judged.confidence}, metadata


def _encode(codec, wave, options: argparse.Namespace):
    """The encoder's latents `[T, D]`."""
    import mlx.core as mx

    from mlx_voxclone.errors import CheckpointError
    from mlx_voxclone.process.progress import progress_bar

    with progress_bar(quiet=options.quiet, total=codec.config.n_frames(len(wave)), unit="frame") as bar:
        latents = codec.encode_audio(wave, on_frames=bar.update)
    if not mx.all(mx.isfinite(latents)).item():
        raise CheckpointError(
            f"{options.encoder or options.model}: latents are not finite: the encoder's weights are damaged;"
            " take another encoder"
        )
    return latents


def _optimise(codec, wave, start, options: argparse.Namespace):
    """The optimised latents `[T, D]`; says what they gained and what it took."""
    import mlx.core as mx

    from mlx_voxclone.errors import CheckpointError, DataError
    from mlx_voxclone.process.progress import progress_bar
    from mlx_voxclone.train.encoder.optimise import PIECE_FRAMES, STEPS, optimise_codes

    given = {"steps": options.max_steps, "learning_rate": options.lr, "patience": options.patience}
    given = {name: value for name, value in given.items() if value is not None}
    pieces, steps = -(-codec.config.n_frames(len(wave)) // PIECE_FRAMES), given.get("steps", STEPS)
    with progress_bar(quiet=options.quiet, total=pieces * steps, unit="step", smoothing=0) as bar:
        try:
            progress = _Progress(bar, pieces, steps)
            result = optimise_codes(codec, wave, start=start, seed=options.seed, progress=progress, **given)
        except DataError as e:
            raise DataError(f"{options.audio}: {e}") from None
        except CheckpointError as e:
            raise CheckpointError(f"{options.model}: {e}") from None
    before, after = result.start_loss, result.loss
    changes = ", ".join(f"{name} {before[name]:.4g} -> {after[name]:.4g}" for name in after)
    seconds = len(wave) / codec.config.sampling_rate
    message(
        f"{changes}; {result.steps} steps in {format_seconds(result.seconds)},"
        f" {result.seconds / seconds:.3g} s per second of audio"
    )
    return mx.array(result.latents)


class _Progress:
    """Moves the bar; where there is none to show, a line after the first piece says how long the others will take."""

    def __init__(self, bar, pieces: int, steps: int):
        self.bar, self.pieces, self.steps, self.done, self.began = bar, pieces, steps, 0, time.perf_counter()

    def __call__(self, n: int) -> None:
        self.bar.update(n)
        first = self.done < self.steps
        self.done += n
        if self.bar.disable and self.pieces > 1 and first and self.done >= self.steps:
            took = time.perf_counter() - self.began
            left = format_seconds(took * (self.pieces - 1))
            message(f"chunk 1 of {self.pieces} took {format_seconds(took)}: about {left} left")
