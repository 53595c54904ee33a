"""`voxclone say`: text to speech."""

import contextlib
import sys

from mlx_voxclone.cli.common import Parser, check_wav_output, command, message
from mlx_voxclone.cli.options import add_shared, encoder_path
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.speech.options import NOTHING_SAID, fault, voice_file

STDOUT = "-"


_DESCRIPTION = """Speak a text with a voice of the checkpoint, or with the voice of a reference clip.

To play it while it is generated: voxclone say ... --output - | ffplay -autoexit -nodisp -"""


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
    parser.add_argument(
        "--steps", type=int, default=None, metavar="N", help="Euler steps per frame (default: the checkpoint's, 7)"
    )
    parser.add_argument(
        "--cfg-alpha", type=float, default=1.2, metavar="X", help="classifier-free guidance; 1.0 is none"
    )
    add_shared(parser, "--float32", "--seed", "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    if found := fault(options.max_seconds, options.steps, options.cfg_alpha):
        parser.error(f"--{found[0].replace('_', '-')} {found[1]}")


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
    kept_apart = voice_file(options.voice) if options.voice is not None else None
    speaker = Speaker.load(options.model, adapters=adapters, encoder=encoder_path(options.encoder))
    voice = options.voice if kept_apart is None else speaker.release.voice_of_file(kept_apart)
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
                raise DataError(NOTHING_SAID)
    if not speech.ended:
        message(f"warning: the model did not end within {options.max_seconds:g} s and was cut off")
    seconds, spent = speech.frames / rate, time.perf_counter() - began
    message(
        f"{seconds:.1f} s of speech in {format_seconds(spent)} ({seconds / spent:.2f} times real time),"
        f" the first of it after {format_seconds(first)}"
    )
    if options.output != STDOUT:
        print(options.output)


def _output(options) -> "contextlib.AbstractContextManager":
    """The writer of the samples, checked before anything is computed."""
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
