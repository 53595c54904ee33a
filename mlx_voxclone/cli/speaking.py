"""What `voxclone say` has for a long text and for a list alike: settings, who listens, progress, what is told after."""

import contextlib

from mlx_voxclone.cli.common import message
from mlx_voxclone.data.options import WHISPER_MODEL
from mlx_voxclone.process.amounts import format_seconds

SHOWN = 5  # doubtful chunks


def settings(options) -> dict:
    """Of a `Narration`."""
    return {
        "batch": options.batch,
        "tries": options.tries,
        "n_steps": options.steps,
        "cfg_alpha": options.cfg_alpha,
    }


def asked(options) -> dict:
    """What else decides what is said."""
    heard = {"whisper": whisper_model(options), "language": options.language} if options.verify else {}
    fewer_bits = {} if options.quantisation is None else {"quantised": str(options.quantisation)}
    return {"adapters": options.adapters} | heard | fewer_bits


def whisper_model(options) -> str:
    """Of `--verify`."""
    return options.whisper_model or WHISPER_MODEL


@contextlib.contextmanager
def listener(options):
    """`evaluate.listening.listener`, or None without `--verify`."""
    if not options.verify:
        yield None
        return
    from mlx_voxclone.evaluate import listening

    with listening.listener(whisper_model(options)) as listen:
        yield listen


@contextlib.contextmanager
def chunk_bar(options, total):
    """A bar with the time that is left; yields what is to be called with the number of chunks done."""
    from mlx_voxclone.process.progress import progress_bar

    with progress_bar(quiet=options.quiet, total=total, unit="chunk") as bar:

        def advance(done: int) -> None:
            if not bar.n:
                bar.initial = done  # of an earlier command: they say nothing about the time that is left
            bar.update(done - bar.n)

        yield advance


def tell_doubts(said, what: str) -> None:
    for name, reason in said.doubts[:SHOWN]:
        message(f"warning: {short(name)}: {reason}")
    if len(said.doubts) > SHOWN:
        message(f"warning: {len(said.doubts) - SHOWN} more {what} may not be right; listen to the end")
    if said.words:
        message(f"word error of the Whisper's transcripts: {said.wrong / said.words:.1%}")
    if warning := said.warning():
        message(f"warning: {warning} (--language)")


def told(seconds: float, spent: float) -> str:
    return f"{seconds:.1f} s of speech in {format_seconds(spent)} ({seconds / spent:.2f} times real time)"


def short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
