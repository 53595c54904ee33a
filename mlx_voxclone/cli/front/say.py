"""`voxclone say`: text to speech."""

import contextlib
import sys

from mlx_voxclone.cli.common import (
    Parser,
    add_device,
    add_encoder,
    add_model,
    add_quiet,
    add_seed,
    check_wav_output,
    encoder_path,
    entry,
    message,
    set_device,
    set_quiet,
)
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.speech.options import NOTHING_SAID, fault, voice_file

STDOUT = "-"


@entry
def main(argv: list[str]) -> None:
    parser = Parser(
        "say",
        "Speak a text with a voice of the checkpoint, or with the voice of a reference clip.\n\n"
        "To hear it while it is spoken: voxclone say ... --output - | ffplay -autoexit -nodisp -",
    )
    add_model(parser)
    parser.add_argument("--text", required=True, help="what to say")
    voice = parser.add_mutually_exclusive_group(required=True)
    voice.add_argument(
        "--voice",
        metavar="NAME_OR_FILE",
        help="a voice of the checkpoint, or a voice kept apart: .safetensors, .pt or hf://OWNER/NAME",
    )
    voice.add_argument(
        "--ref-audio",
        metavar="WAV",
        action="append",
        help="a recording of the voice, 1 to 60 s (needs a checkpoint with an encoder); several are taken together",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="OUT.wav",
        help="24 kHz mono; replaced if it exists; - writes to stdout, a piece of 0.8 s and then 2 s at a time",
    )
    parser.add_argument(
        "--adapters",
        action="append",
        default=[],
        metavar="DIR[=WEIGHT]",
        help="LoRA adapters to speak with, kept apart, a directory or hf://OWNER/NAME; several are added up, WEIGHT 0.5"
        " takes half of a change",
    )
    add_encoder(parser)
    parser.add_argument("--max-seconds", type=float, default=60.0, help="cut off there if the model does not end")
    parser.add_argument("--steps", type=int, default=None, help="Euler steps per frame (default: the checkpoint's, 7)")
    parser.add_argument("--cfg-alpha", type=float, default=1.2, help="guidance; 1.0 is none")
    parser.add_argument("--float32", action="store_true", help="write floats, unclipped, instead of 16-bit PCM")
    add_seed(parser)
    add_device(parser)
    add_quiet(parser)
    options = parser.parse_args(argv)
    if found := fault(options.max_seconds, options.steps, options.cfg_alpha):
        parser.error(f"--{found[0].replace('_', '-')} {found[1]}")
    set_quiet(options.quiet)
    set_device(options.device)
    _run(options)


def _run(options) -> None:
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
