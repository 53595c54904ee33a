"""`voxclone say`: text to speech."""

import contextlib
import math
import sys
from pathlib import Path

from mlx_voxclone.cli.common import Parser, check_wav_output, command, message
from mlx_voxclone.cli.options import add_shared, encoder_path
from mlx_voxclone.process.amounts import format_seconds

STDOUT = "-"
MAX_STEPS, MAX_GUIDANCE = 1000, 100  # beyond, it is a slip of the hand


_DESCRIPTION = """Speak a text with a voice of the checkpoint, or with the voice of a reference clip.

To hear it while it is spoken: voxclone say ... --output - | ffplay -autoexit -nodisp -"""


def _options(parser: Parser) -> None:
    add_shared(parser, "--model")
    add_shared(parser, "--text", required=True, note=" to speak")
    voice = parser.add_mutually_exclusive_group(required=True)
    add_shared(voice, "--voice", note=" of the checkpoint, or a file: .safetensors, .pt or hf://OWNER/NAME")
    add_shared(voice, "--ref-audio", note="; needs a codec encoder")
    add_shared(
        parser,
        "--output",
        metavar="OUT.wav",
        help="24 kHz mono WAV to write; replaced if it exists; - streams to stdout, first 0.8 s, then 2 s at a time",
    )
    add_shared(parser, "--adapters")
    add_shared(parser, "--encoder", note="; for a checkpoint that has none")
    add_shared(parser, "--max-seconds", default=60.0, note=" of the speech, which is cut off there")
    parser.add_argument("--steps", type=int, default=None, help="Euler steps per frame (default: the checkpoint's, 7)")
    parser.add_argument("--cfg-alpha", type=float, default=1.2, help="guidance; 1.0 is none")
    add_shared(parser, "--float32", "--seed", "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    if not 0 < options.max_seconds < math.inf:
        parser.error(f"--max-seconds must be above 0 and finite, got {options.max_seconds:g}")
    if options.steps is not None and not 1 <= options.steps <= MAX_STEPS:
        parser.error(f"--steps must be from 1 to {MAX_STEPS}, got {options.steps}")
    if not abs(options.cfg_alpha) <= MAX_GUIDANCE:
        parser.error(f"--cfg-alpha must be a finite number up to {MAX_GUIDANCE}, got {options.cfg_alpha:g}")


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    import time

    from mlx_voxclone.adapters.mix import AdapterSource
    from mlx_voxclone.errors import DataError
    from mlx_voxclone.process.progress import progress_bar
    from mlx_voxclone.speech.speaker import Speaker, read_references, reference_warnings

    opened = _output(options)
    reference = read_references(options.ref_audio) if options.ref_audio else None
    for line in reference_warnings(reference) if reference else []:
        message(f"warning: {line}")
    adapters = [AdapterSource.parse(text) for text in options.adapters]
    voice_file = _voice_file(options.voice)
    speaker = Speaker.load(options.model, adapters=adapters, encoder=encoder_path(options.encoder))
    voice = options.voice if voice_file is None else speaker.release.voice_of_file(voice_file)
    began, first, rate = time.perf_counter(), 0.0, speaker.model.config.codec.frame_rate
    limit = round(options.max_seconds * rate)
    with progress_bar(quiet=options.quiet, total=limit, unit="frame") as bar:
        speech = speaker.stream(
            options.text,
            voice,
            reference,
            seed=options.seed,
            max_seconds=options.max_seconds,
            n_steps=options.steps,
            cfg_alpha=options.cfg_alpha,
            on_frame=lambda n: bar.update(),
        )
        with opened as write:
            for samples in speech:
                first = first or time.perf_counter() - began
                write(samples)
            if not speech.frames:
                raise DataError("the model ended before its first frame: nothing to write; try another text or voice")
    if not speech.ended:
        message(f"warning: the model did not end within {options.max_seconds:g} s and was cut off")
    seconds, spent = speech.frames / rate, time.perf_counter() - began
    message(
        f"{seconds:.1f} s of speech in {format_seconds(spent)} ({seconds / spent:.2f} times real time),"
        f" the first of it after {format_seconds(first)}"
    )
    if options.output != STDOUT:
        print(options.output)


def _voice_file(voice: str | None) -> Path | None:
    """The file of a voice that is kept apart; None: a voice of the checkpoint, or none."""
    from mlx_voxclone.files.hub import VOICE, VOICE_SUFFIXES, is_address, local

    if voice is None or not (is_address(voice) or Path(voice).suffix in VOICE_SUFFIXES):  # no voice's name has a dot
        return None
    return local(voice, VOICE)


def _output(options) -> "contextlib.AbstractContextManager":
    """What takes the samples, found fit before anything is computed."""
    from mlx_voxclone.audio.wav_stream import wav_file, wav_pipe
    from mlx_voxclone.errors import DataError
    from mlx_voxclone.process.streams import stdout_is_closed

    if options.output != STDOUT:
        path = check_wav_output(options.output, *(options.ref_audio or []))
        return wav_file(path, float32=options.float32)
    if stdout_is_closed():
        raise DataError("--output -: stdout is closed; pipe it to a player (| ffplay -) or name a file")
    if sys.stdout.isatty():
        raise DataError("--output -: stdout is a terminal; pipe it to a player (| ffplay -) or name a file")
    return wav_pipe(sys.stdout.buffer, "stdout", float32=options.float32)
