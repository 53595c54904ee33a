"""`voxclone say`: text to speech."""

import contextlib
import sys

from mlx_voxclone.cli.common import Parser, check_wav_output, command, message
from mlx_voxclone.cli.options import add_shared, encoder_path
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.speech.options import BATCH, MAX_BATCH, MAX_PAUSE, MAX_SECONDS, NOTHING_SAID, PAUSE, fault, voice_file

STDOUT = "-"
SHOWN = 5  # doubtful chunks


_DESCRIPTION = """Speak a text with a voice of the checkpoint, or with the voice of a reference clip.

To play it while it is generated: voxclone say ... --output - | ffplay -autoexit -nodisp -

A text of more than a few sentences is split at sentences and spoken in batches. Its WAV grows chunk by chunk as
OUT.partial.wav; after an interruption the same command with --resume goes on."""


def _options(parser: Parser) -> None:
    add_shared(parser, "--model")
    text = parser.add_mutually_exclusive_group(required=True)
    add_shared(text, "--text", note=" to speak, of any length")
    text.add_argument("--text-file", metavar="FILE", help="a text in UTF-8 to speak; - reads standard input")
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
    add_shared(parser, "--max-seconds", note=" of a short text, which is cut off there (default: 60)")
    add_shared(parser, "--language", default="en", note=", of sentences, of amounts and of numbers in words")
    parser.add_argument(
        "--verbatim",
        action="store_true",
        help="speak the text as it is written; without it, signs and markup are put as mlx-audio puts them",
    )
    add_shared(parser, "--numbers-in-words")
    parser.add_argument(
        "--pause", type=float, default=PAUSE, metavar="S", help="silence after a sentence of a long text (seconds)"
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=BATCH,
        metavar="N",
        help="how many are generated at once: chunks of a long text; more take more memory",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue what an interruption left: the OUT.partial.wav of a long text",
    )
    parser.add_argument(
        "--steps", type=int, default=None, metavar="N", help="Euler steps per frame (default: the checkpoint's, 7)"
    )
    parser.add_argument(
        "--cfg-alpha", type=float, default=1.2, metavar="X", help="classifier-free guidance; 1.0 is none"
    )
    add_shared(parser, "--float32", "--seed", "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    if found := fault(_longest(options), options.steps, options.cfg_alpha):
        parser.error(f"--{found[0].replace('_', '-')} {found[1]}")
    if not 0 <= options.pause <= MAX_PAUSE:
        parser.error(f"--pause must be from 0 to {MAX_PAUSE} seconds, got {options.pause:g}")
    if not 1 <= options.batch <= MAX_BATCH:
        parser.error(f"--batch must be from 1 to {MAX_BATCH}, got {options.batch}")
    if options.resume and options.output == STDOUT:
        parser.error("--resume goes on with a file; what went down a pipe is gone")


def _longest(options) -> float:
    """Seconds at which a short text is cut off."""
    return MAX_SECONDS if options.max_seconds is None else options.max_seconds


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    from mlx_voxclone.adapters.mix import AdapterSource
    from mlx_voxclone.speech.chunks import split_text
    from mlx_voxclone.speech.long_speech import is_long
    from mlx_voxclone.speech.speaker import Speaker, read_references, reference_warnings
    from mlx_voxclone.text.forms import as_read, as_said

    given = _text(options)
    form = {"verbatim": options.verbatim, "numbers": options.numbers_in_words}
    long = is_long(given) or options.text_file is not None
    text = (as_read if long else as_said)(given, options.language, **form)
    chunks = split_text(text, options.language, options.pause) if long else None
    _check_length(options, chunks)
    opened = _output(options)
    reference = read_references(options.ref_audio) if options.ref_audio else None
    for line in reference_warnings(reference) if reference else []:
        message(f"warning: {line}")
    adapters = [AdapterSource.parse(text) for text in options.adapters]
    kept_apart = voice_file(options.voice) if options.voice is not None else None
    speaker = Speaker.load(options.model, adapters=adapters, encoder=encoder_path(options.encoder))
    voice = options.voice if kept_apart is None else speaker.release.voice_of_file(kept_apart)
    if chunks is None:
        _say(options, text, speaker, voice, reference, opened)
    else:
        _say_long(options, chunks, speaker, speaker.voice_rows(voice, reference), opened)
    if options.output != STDOUT:
        print(options.output)


def _text(options) -> str:
    from mlx_voxclone.speech.long_speech import read_text, text_in

    if options.text_file is None:
        return options.text
    if options.text_file == STDOUT:
        return text_in(sys.stdin.buffer, "standard input")
    return read_text(options.text_file)


def _check_length(options, chunks) -> None:
    from mlx_voxclone.errors import DataError

    if chunks is None and options.resume:
        raise DataError("--resume goes on with a long text; this one is spoken in one go: leave it out")
    if chunks is not None and options.max_seconds is not None:
        raise DataError(f"--max-seconds cuts off a short text; this one has {len(chunks)} chunks: leave it out")


def _say(options, text, speaker, voice, reference, opened) -> None:
    """A short text: one utterance."""
    import time

    from mlx_voxclone.errors import DataError
    from mlx_voxclone.process.progress import progress_bar

    longest = _longest(options)
    began, first, rate = time.perf_counter(), 0.0, speaker.model.config.codec.frame_rate
    with progress_bar(quiet=options.quiet, total=round(longest * rate), unit="frame") as bar:
        speech = speaker.stream(
            text,
            voice,
            reference,
            seed=options.seed,
            max_seconds=longest,
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
        message(f"warning: the model did not end within {longest:g} s and was cut off")
    seconds, spent = speech.frames / rate, time.perf_counter() - began
    message(f"{_told(seconds, spent)}, the first of it after {format_seconds(first)}")


def _say_long(options, chunks, speaker, rows, opened) -> None:
    """A long text: chunk after chunk."""
    import time

    from mlx_voxclone.process.progress import progress_bar
    from mlx_voxclone.speech.long_speech import stream_long, write_long

    began = time.perf_counter()
    settings = {
        "seed": options.seed,
        "batch": options.batch,
        "n_steps": options.steps,
        "cfg_alpha": options.cfg_alpha,
    }
    with progress_bar(quiet=options.quiet, total=len(chunks), unit="chunk") as bar:

        def advance(done: int) -> None:
            if not bar.n:
                bar.initial = done  # of an earlier command: they say nothing about the time that is left
            bar.update(done - bar.n)

        if options.output == STDOUT:
            with opened as write:
                speech = stream_long(write, speaker, chunks, rows, on_chunk=advance, **settings)
        else:
            speech = write_long(
                options.output,
                speaker,
                chunks,
                rows,
                resume=options.resume,
                float32=options.float32,
                on_chunk=advance,
                asked={"adapters": options.adapters},
                **settings,
            )
    for text, reason in speech.doubts[:SHOWN]:
        message(f"warning: {_short(text)}: {reason}")
    if len(speech.doubts) > SHOWN:
        message(f"warning: {len(speech.doubts) - SHOWN} more chunks may not be right; listen to the end")
    again = f", {speech.again} of them spoken again" if speech.again else ""
    whole = f" ({format_seconds(speech.seconds)} in all)" if speech.earlier else ""
    told = _told(speech.seconds - speech.earlier, time.perf_counter() - began)
    message(f"{speech.chunks} chunks{again}; {told}{whole}")


def _told(seconds: float, spent: float) -> str:
    return f"{seconds:.1f} s of speech in {format_seconds(spent)} ({seconds / spent:.2f} times real time)"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


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
