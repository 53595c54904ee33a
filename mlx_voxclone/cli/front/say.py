"""`voxclone say`: text to speech."""

import contextlib
import sys
from pathlib import Path

from mlx_voxclone.audio.output import check_wav_output
from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared, at_once, encoder_path, quantisation
from mlx_voxclone.cli.speaking import asked, chunk_bar, listener, settings, tell_doubts, told
from mlx_voxclone.data.options import WHISPER_MODEL
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.speech.options import (
    BATCH,
    MAX_BATCH,
    MAX_PAUSE,
    MAX_SECONDS,
    MAX_TRIES,
    NOTHING_SAID,
    PAUSE,
    STREAM_BATCH,
    TRIES,
    fault,
    voice_file,
)

STDOUT = "-"


_DESCRIPTION = """Speak a text with a voice of the checkpoint, or with the voice of a reference clip.

To play it while it is generated: voxclone say ... --output - | ffplay -autoexit -nodisp -

A text of more than a few sentences or of several paragraphs is split and spoken in batches. Its WAV grows chunk by
chunk as OUT.partial.wav; after an interruption the same command with --resume goes on.

--lines speaks a list into a directory, a WAV for each line: objects with "text", and with "voice", "seed", "file",
"language" where a line has its own.

--srt OUT.srt writes subtitles: of each chunk, whose times are known, or with --whisper-model of each word."""


def _options(parser: Parser) -> None:
    add_shared(parser, "--model")
    text = parser.add_mutually_exclusive_group(required=True)
    add_shared(text, "--text", note=" to speak, of any length")
    text.add_argument("--text-file", metavar="FILE", help="a text in UTF-8 to speak; - reads standard input")
    text.add_argument("--lines", metavar="FILE", help="JSON Lines to speak, each into a WAV in the directory --output")
    voice = parser.add_mutually_exclusive_group()
    add_shared(voice, "--voice", note=" of the checkpoint, or a file: .safetensors, .pt or hf://OWNER/NAME")
    add_shared(voice, "--ref-audio", note="; needs a codec encoder")
    add_shared(
        parser,
        "--output",
        metavar="OUT.wav",
        help="24 kHz mono WAV to write; replaced if it exists; - streams to stdout, first 0.8 s, then 2 s at a time;"
        " with --lines a directory",
    )
    add_shared(parser, "--adapters")
    add_shared(parser, "--encoder", note="; for a checkpoint that has none")
    add_shared(parser, "--bits", note="; takes less memory")
    add_shared(parser, "--group-size")
    add_shared(parser, "--max-seconds", note=" of a short text, which is cut off there (default: 60)")
    add_shared(
        parser,
        "--language",
        note=": where sentences end, amounts and numbers in words (default: en); what --verify expects",
    )
    parser.add_argument(
        "--verbatim",
        action="store_true",
        help="speak the text as it is written; without it, signs and markup are put as mlx-audio puts them",
    )
    add_shared(parser, "--numbers-in-words")
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE,
        metavar="S",
        help="silence after a sentence of a long text (seconds); twice that after a paragraph or heading, 0.6 of it"
        " after a verse, 0.4 to 0.6 within a sentence that had to be cut",
    )
    parser.add_argument(
        "--batch",
        type=at_once,
        metavar="N",
        help="how many are generated at once: chunks of a long text, or of several of --lines; more are faster and take"
        f" more memory (default: {BATCH}; {STREAM_BATCH} where --output is -)",
    )
    parser.add_argument(
        "--tries",
        type=int,
        default=TRIES,
        metavar="N",
        help="how often a chunk of a long text is spoken at most, if it is silent, endless or of an unlikely length",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="listen with a Whisper (extras transcribe, evaluate) and keep the try of which most is understood",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue what an interruption left: the OUT.partial.wav of a long text, the directory of --lines",
    )
    parser.add_argument(
        "--steps", type=int, default=None, metavar="N", help="Euler steps per frame (default: the checkpoint's, 7)"
    )
    parser.add_argument(
        "--cfg-alpha", type=float, default=1.2, metavar="X", help="classifier-free guidance; 1.0 is none"
    )
    parser.add_argument(
        "--srt",
        metavar="OUT.srt",
        help="write subtitles: a cue per chunk of a long text, one of a short text; with --whisper-model one per word",
    )
    add_shared(
        parser,
        "--whisper-model",
        default=None,
        note=f"; listens for --verify (default: {WHISPER_MODEL}), times the words of --srt (extra transcribe)",
    )
    add_shared(parser, "--float32", "--seed", "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    if found := fault(_longest(options), options.steps, options.cfg_alpha):
        parser.error(f"--{found[0].replace('_', '-')} {found[1]}")
    if not 0 <= options.pause <= MAX_PAUSE:
        parser.error(f"--pause must be from 0 to {MAX_PAUSE} seconds, got {options.pause:g}")
    if options.batch is None:
        options.batch = STREAM_BATCH if options.output == STDOUT else BATCH
    if not 1 <= options.batch <= MAX_BATCH:
        parser.error(f"--batch must be from 1 to {MAX_BATCH}, got {options.batch}")
    if not 1 <= options.tries <= MAX_TRIES:
        parser.error(f"--tries must be from 1 to {MAX_TRIES}, got {options.tries}")
    if options.lines is None and options.voice is None and options.ref_audio is None:
        parser.error("one of the arguments --voice --ref-audio is required")
    if options.lines is not None and (options.output == STDOUT or options.max_seconds is not None):
        parser.error("--lines writes files of any length: --output names a directory, and there is no --max-seconds")
    options.quantisation = quantisation(parser, options)
    if options.resume and options.output == STDOUT:
        parser.error("--resume goes on with a file; what went down a pipe is gone")
    if options.whisper_model is not None and options.srt is None and not options.verify:
        parser.error("--whisper-model is for --verify and --srt")
    if options.whisper_model is not None and options.srt is not None and options.output == STDOUT:
        parser.error("--whisper-model times the words of a file; what went down a pipe is gone")
    if options.srt is not None and options.lines is not None:
        parser.error("--srt is for one text; leave it out with --lines")


def _longest(options) -> float:
    """Seconds at which a short text is cut off."""
    return MAX_SECONDS if options.max_seconds is None else options.max_seconds


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    from mlx_voxclone.speech.chunks import split_text
    from mlx_voxclone.speech.subtitles import Subtitles, chunk_cues
    from mlx_voxclone.speech.to_files.long_speech import is_long
    from mlx_voxclone.text.forms import as_said, form_of

    if options.lines is not None:
        lines = _lines(options)
        speaker, rows = _speaker(options, {line.voice for line in lines})
        _say_lines(options, lines, speaker, rows)
        print(options.output)
        return
    given, language = _text(options), options.language or "en"
    form = {"verbatim": options.verbatim, "numbers": options.numbers_in_words}
    long = is_long(given) or options.text_file is not None or options.verify
    text = given if long else as_said(given, language, **form)
    chunks = split_text(text, language, options.pause, form_of(language, **form)) if long else None
    _check_length(options, chunks)
    opened = _output(options)
    subtitles = Subtitles.checked(options.srt, options.whisper_model, options.language, options.output)
    speaker, rows = _speaker(options)
    if chunks is None:
        seconds = _say(options, text, speaker, rows[None], opened)
        cues = chunk_cues([text], [seconds], [0.0])
    else:
        speech = _say_long(options, chunks, speaker, rows[None], opened)
        cues = chunk_cues([chunk.text for chunk in chunks], speech.ends, [chunk.pause for chunk in chunks])
    if subtitles is not None:
        subtitles.write(options.output, cues)
    if options.output != STDOUT:
        print(options.output)


def _speaker(options, voices=frozenset((None,))):
    """The loaded checkpoint, and the rows of voices by their names; None: the one of `--voice` or `--ref-audio`."""
    from mlx_voxclone.adapters.mix import AdapterSource
    from mlx_voxclone.process.progress import weight_bar
    from mlx_voxclone.speech.speaker import Speaker, read_references, reference_warnings

    reference = read_references(options.ref_audio) if options.ref_audio else None
    for line in reference_warnings(reference) if reference else []:
        message(f"warning: {line}")
    adapters = [AdapterSource.parse(text) for text in options.adapters]
    names = {name: options.voice if name is None else name for name in voices}
    files = {key: voice_file(name) for key, name in names.items() if name is not None}
    with weight_bar(options.quiet) as advance:
        speaker = Speaker.load(
            options.model,
            adapters=adapters,
            encoder=encoder_path(options.encoder),
            quantisation=options.quantisation,
            progress=advance,
        )
    rows = {}
    for key, name in names.items():
        kept_apart = files.get(key)
        voice = name if kept_apart is None else speaker.release.voice_of_file(kept_apart)
        rows[key] = speaker.voice_rows(voice, reference if name is None else None)
    return speaker, rows


def _lines(options):
    """The list of `--lines`, checked."""
    from mlx_voxclone.checkpoint.release import Release
    from mlx_voxclone.errors import DataError
    from mlx_voxclone.speech.to_files.lines import read_lines

    if Path(options.output).exists() and not Path(options.output).is_dir():
        raise DataError(f"{options.output}: is not a directory; --lines writes a WAV for each line into one")
    return read_lines(
        options.lines,
        voices=Release(options.model).voices(),
        voice=options.voice is not None or options.ref_audio is not None,
        pause=options.pause,
        seed=options.seed,
        language=options.language,
        verbatim=options.verbatim,
        numbers=options.numbers_in_words,
    )


def _text(options) -> str:
    from mlx_voxclone.speech.to_files.long_speech import read_text, text_in

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


def _say(options, text, speaker, rows, opened) -> float:
    """A short text: one utterance. Its seconds."""
    import time

    from mlx_voxclone.errors import DataError
    from mlx_voxclone.process.progress import progress_bar

    longest = _longest(options)
    began, first, rate = time.perf_counter(), 0.0, speaker.model.config.codec.frame_rate
    with progress_bar(quiet=options.quiet, total=round(longest * rate), unit="frame") as bar:
        speech = speaker.stream(
            text,
            rows,
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
    message(f"{told(seconds, spent)}, the first of it after {format_seconds(first)}")
    return seconds


def _say_long(options, chunks, speaker, rows, opened):
    """A long text: chunk after chunk. Its `LongSpeech`."""
    import time

    from mlx_voxclone.speech.to_files.long_speech import stream_long, write_long

    began = time.perf_counter()
    with listener(options) as listen, chunk_bar(options, len(chunks)) as advance:
        chosen = settings(options) | {"listen": listen(options.language) if listen else None}
        if options.output == STDOUT:
            with opened as write:
                speech = stream_long(write, speaker, chunks, rows, on_chunk=advance, seed=options.seed, **chosen)
        else:
            speech = write_long(
                options.output,
                speaker,
                chunks,
                rows,
                resume=options.resume,
                float32=options.float32,
                on_chunk=advance,
                asked=asked(options),
                seed=options.seed,
                **chosen,
            )
    tell_doubts(speech, "chunks")
    again = f", {speech.again} of them spoken again" if speech.again else ""
    whole = f" ({format_seconds(speech.seconds)} in all)" if speech.earlier else ""
    spent = time.perf_counter() - began
    message(f"{speech.chunks} chunks{again}; {told(speech.seconds - speech.earlier, spent)}{whole}")
    return speech


def _say_lines(options, lines, speaker, rows) -> None:
    """A list of texts, each into a file."""
    import time

    from mlx_voxclone.speech.to_files.many_files import speak_lines

    began = time.perf_counter()
    with listener(options) as listen, chunk_bar(options, sum(len(line.chunks) for line in lines)) as advance:
        for language in {line.language for line in lines} if listen else ():
            listen(language)  # refuses one that it cannot hear, before anything is spoken
        said = speak_lines(
            options.output,
            speaker,
            lines,
            rows,
            resume=options.resume,
            float32=options.float32,
            listen=listen,
            on_chunk=advance,
            on_changed=lambda count: message(
                f"{count} files of an earlier command are spoken again: their lines or the options differ"
            ),
            asked=asked(options),
            **settings(options),
        )
    tell_doubts(said, "files")
    again = f", {said.again} of them spoken again" if said.again else ""
    earlier = f" ({said.earlier} of an earlier command)" if said.earlier else ""
    message(f"{said.files} files{earlier}{again}; {told(said.seconds, time.perf_counter() - began)}")


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
