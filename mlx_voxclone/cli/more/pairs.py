"""`voxclone pairs`: the model speaks; its codes and their audio are exact pairs."""

import math

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared, at_once, encoder_path
from mlx_voxclone.process.amounts import format_seconds

_DESCRIPTION = """\
Generate speech with the stock model and keep its codes with the audio: exact pairs to train the encoder on.
Sentences that do not end within --max-seconds are rejected. After an interruption, run the command again."""


def _options(parser: Parser) -> None:
    add_shared(parser, "--model")
    add_shared(parser, "--output", note=", or to continue")
    parser.add_argument(
        "--voices", nargs="+", metavar="NAME", help="voices to speak with (default: all; with --recordings: none)"
    )
    parser.add_argument(
        "--recordings",
        metavar="SOURCE",
        help="also speak with the voices of these recordings, as the encoder represents them: folder,"
        " manifest or prepared"
        " clips, ideally of many speakers",
    )
    add_shared(parser, "--encoder", note="; for --recordings, with a checkpoint that has none")
    parser.add_argument(
        "--max-voices",
        type=int,
        default=200,
        metavar="N",
        help="most speakers to take from the recordings, at random",
    )
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument(
        "--languages",
        nargs="+",
        metavar="CODE",
        help="languages of the shipped sentences that every voice speaks: en, fr, de, es, it, pt, nl, ar,"
        " hi (default: by"
        " the voice's name, such as fr_female, else en)",
    )
    texts.add_argument("--texts", metavar="FILE", help="speak these sentences instead, one per line")
    parser.add_argument("--per-voice", type=int, default=40, metavar="N", help="sentences of each voice")
    parser.add_argument(
        "--batch",
        type=at_once,
        default=16,
        metavar="N",
        help="how many are generated at once: sentences; does not change the result in float32",
    )
    add_shared(parser, "--max-seconds", default=30.0, note=" of a sentence; longer ones are rejected")
    parser.add_argument(
        "--augment",
        action="store_true",
        help="also write all audio as if recorded: room, noise, band, level; the codes stay the same",
    )
    add_shared(parser, "--seed", "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    counts = (("--per-voice", options.per_voice), ("--batch", options.batch), ("--max-voices", options.max_voices))
    for name, value in counts:
        if value < 1:
            parser.error(f"{name} must be at least 1, got {value}")
    if not 0 < options.max_seconds < math.inf:
        parser.error(f"--max-seconds must be above 0 and finite, got {options.max_seconds:g}")
    if options.encoder and not options.recordings:
        parser.error("--encoder is for --recordings; name some")


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    from mlx_voxclone.files.locks import held

    with held(options.output, message):  # before the model is loaded, which takes a while
        _run(options)


def _run(options) -> None:
    import time

    from mlx_voxclone.errors import CheckpointError
    from mlx_voxclone.pairs.make import generate_pairs, read_texts, sentences
    from mlx_voxclone.pairs.prompts import load_prompts
    from mlx_voxclone.pairs.voices import recorded_voices
    from mlx_voxclone.process.progress import progress_bar
    from mlx_voxclone.speech.speaker import Speaker

    texts = read_texts(options.texts) if options.texts else None
    if options.languages:
        texts = load_prompts(list(dict.fromkeys(options.languages)))
    speaker = Speaker.load(options.model, encoder=encoder_path(options.encoder))
    own = options.voices or ([] if options.recordings else speaker.voices)
    voices, recorded = list(dict.fromkeys(name.lower() for name in own)), {}
    if options.recordings:
        with progress_bar(quiet=options.quiet, total=None, unit="speaker") as bar:
            recorded, notes = recorded_voices(
                speaker, options.recordings, most=options.max_voices, seed=options.seed, progress=bar.update
            )
        for note in notes:
            message(f"note: {note}")
        message(f"{len(recorded)} voices of {options.recordings}")
    voices += recorded
    if not voices:
        raise CheckpointError(f"{speaker.release.path}: has no voice to speak with")
    spoken = {name: voice.language for name, voice in recorded.items()}
    listed = sentences(voices, texts, options.per_voice, options.seed, spoken)
    settings = {"voices": voices, "languages": options.languages, "per_voice": options.per_voice, "seed": options.seed}
    began = time.perf_counter()
    with progress_bar(quiet=options.quiet, total=len(listed), unit="sentence") as bar:
        report = generate_pairs(
            speaker,
            options.output,
            listed,
            settings=settings,
            max_seconds=options.max_seconds,
            batch=options.batch,
            augmented=options.augment,
            rows={name: voice.rows for name, voice in recorded.items()},
            progress=bar.update,
        )
    rejected = ", ".join(f"{n} {reason}" for reason, n in report.rejected.items()) or "none"
    message(
        f"kept {report.kept} of {report.sentences} sentences, {format_seconds(report.seconds)} of speech; rejected:"
        f" {rejected}; took {format_seconds(time.perf_counter() - began)}"
    )
    print(options.output)
