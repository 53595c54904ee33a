"""`voxclone prepare`: recordings -> clips, transcripts and a held-out split."""

import argparse
from pathlib import Path

from mlx_voxclone.cli.common import Parser, command
from mlx_voxclone.cli.options import add_shared
from mlx_voxclone.data.options import WHISPER_MODEL, PrepareOptions
from mlx_voxclone.process.progress import progress_over

DESCRIPTION = """Turn recordings into clips to train on: 24 kHz mono, silence trimmed, long recordings cut at
pauses, some of them held out for measuring. Files that cannot be used are left out, each with its reason.

SOURCE is one of
  a folder of audio    text from a .txt beside each file; subfolders are speakers
  a .jsonl manifest    {"audio": path, "text"?, "speaker"?, "language"?, "ref_audio"?: path, "split"?} per line;
                       split is "heldout" or "train"
  a metadata.csv       or .csv, .tsv, .list: columns named in the first line (audio_file|text|speaker_name), or the
                       layouts of LJSpeech (`id|text`), Piper, XTTS and GPT-SoVITS; audio beside it or in wavs/
  a corpus             LibriSpeech, LibriTTS or Common Voice as unpacked; its dev and test are held out
  one recording
  tar shards           a folder of .tar files, an address (https://HOST/x-{000..012}.tar) or a dataset on the hub
                       (hf://datasets/OWNER/NAME): audio, beside it .json or .txt; they stay as they are, and --output
                       gets an index of them to train from"""


def _options(parser: Parser) -> None:
    default = PrepareOptions()
    parser.add_argument("source", metavar="SOURCE", help="folder, manifest or recording")
    add_shared(parser, "--output", note="; used again if up to date")
    parser.add_argument("--speaker", metavar="NAME", help="use only this speaker of the source")
    add_shared(parser, "--language", note=", of recordings whose manifest names none")
    shards = parser.add_argument_group("corpora larger than the disk")
    shards.add_argument(
        "--shards", metavar="SIZE", help="write tar shards of this size (1GB) and an index, in place of a file per clip"
    )
    shards.add_argument(
        "--cache", type=Path, metavar="DIR", help="directory for fetched shards (default: ~/.cache/voxclone/shards)"
    )
    length = parser.add_argument_group("length and level")
    length.add_argument(
        "--min-seconds", type=float, default=default.min_seconds, metavar="S", help="leave out shorter clips"
    )
    add_shared(
        length,
        "--max-seconds",
        default=default.max_seconds,
        note=" of a clip: longer recordings are cut at pauses; with a text they stay whole up to 30 s, and beyond are"
        " cut together with it where a Whisper is named",
    )
    length.add_argument("--no-trim", action="store_true", help="keep silence at both ends")
    length.add_argument(
        "--speech-detector",
        choices=("auto", "levels", "silero"),
        default=default.speech_detector,
        help="how speech is told from silence; auto: Silero VAD (extra vad) for noisy recordings, where installed",
    )
    add_shared(length, "--normalise")
    refuse = parser.add_argument_group("what is refused")
    refuse.add_argument(
        "--min-sampling-rate",
        type=int,
        default=default.min_sampling_rate,
        metavar="HZ",
        help="refuse recordings below this rate",
    )
    refuse.add_argument(
        "--max-clipped",
        type=float,
        default=default.max_clipped,
        metavar="F",
        help="refuse recordings with more than this fraction of their samples clipped, at whatever level",
    )
    split = parser.add_argument_group("held-out split")
    split.add_argument(
        "--heldout", type=float, default=default.heldout, metavar="F", help="fraction kept for measuring, whole files"
    )
    split.add_argument(
        "--heldout-speakers", nargs="+", default=[], metavar="NAME", help="speakers kept out of training altogether"
    )
    text = parser.add_argument_group("transcripts")
    add_shared(text, "--numbers-in-words", note=", as they are learnt")
    add_shared(text, "--transcribe", note=" what has no text")
    text.add_argument(
        "--check-texts",
        action="store_true",
        help="compare texts with what a Whisper recognises; list the worst, leave out what differs by over a third",
    )
    add_shared(
        text,
        "--whisper-model",
        default=None,
        note=f"; for --transcribe and --check-texts (default: {WHISPER_MODEL}). Where one is named, recordings over"
        " 30 s with a text (a chapter and its .txt) are cut at pauses, text and audio together",
    )
    text.add_argument(
        "--recogniser",
        metavar="mlx-audio:ID",
        help="any speech recogniser of mlx-audio (extra mlx-audio) in the place of Whisper; ID a directory or a Hub id",
    )
    add_shared(parser, "--seed", "--device", "--quiet")


def _check(parser: Parser, options: argparse.Namespace) -> None:
    if options.recogniser is not None and not options.transcribe:
        parser.error("--recogniser says who transcribes: give --transcribe, too")


@command(DESCRIPTION, _options, _check)
def main(arguments: argparse.Namespace) -> None:
    options = _prepare_options(arguments)
    from mlx_voxclone.data.prepare import prepare
    from mlx_voxclone.data.shards.write import parse_size

    report = prepare(
        arguments.source,
        arguments.output,
        options,
        shards=None if arguments.shards is None else parse_size(arguments.shards),
        cache=arguments.cache,
        progress=None if arguments.quiet else progress_over,
    )
    print("\n".join(report.lines()))


def _prepare_options(arguments: argparse.Namespace) -> PrepareOptions:
    return PrepareOptions(
        speaker=arguments.speaker,
        language=arguments.language,
        min_seconds=arguments.min_seconds,
        max_seconds=arguments.max_seconds,
        heldout=arguments.heldout,
        heldout_speakers=arguments.heldout_speakers,
        normalise=arguments.normalise,
        trim_silence=not arguments.no_trim,
        speech_detector=arguments.speech_detector,
        min_sampling_rate=arguments.min_sampling_rate,
        max_clipped=arguments.max_clipped,
        numbers_in_words=arguments.numbers_in_words,
        transcribe=arguments.transcribe,
        check_texts=arguments.check_texts,
        whisper_model=arguments.whisper_model,
        recogniser=arguments.recogniser,
        seed=arguments.seed,
    )
