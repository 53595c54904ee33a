"""`voxclone publish`: share an encoder, adapters, a voice or a baked checkpoint on the hub."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared
from mlx_voxclone.process.amounts import format_bytes

if TYPE_CHECKING:
    from mlx_voxclone.publish.publication import Publication

_DESCRIPTION = """Upload what was trained to a model repository on huggingface.co, in one commit, with a model card.

DIR is one of
  a run of task clone        the encoder, adapters and voice that its bake was made of, the sentences spoken before and
                             after; with --baked the checkpoint (8 GB) as well
  another run                its best encoder or adapters
  a baked checkpoint         as it is, with its voices
  a directory of adapters    adapters.safetensors and adapter_config.json
  encoder.safetensors        an encoder
  NAME.safetensors           the voice NAME, a tensor `embedding`

Nothing else is uploaded: no recordings, clips, transcripts, codes of clips, logs or configurations; files that name
a path of this machine are refused. The card holds your statement of consent, the licence (CC BY-NC 4.0, as the
model's), figures of summary.json, samples, and how to use it. Others can then give hf://OWNER/NAME in place of the path
of an encoder, adapters or a voice. Publishing again updates the repository. Log in once with `hf auth login`."""


def _options(parser: Parser) -> None:
    parser.add_argument("source", metavar="DIR", help="what to publish, see above")
    parser.add_argument(
        "--repo", required=True, metavar="OWNER/NAME", help="repository on the Hub; created if it does not exist"
    )
    parser.add_argument(
        "--consent",
        metavar="TEXT",
        help="whose voice it is and that its owner agreed to publishing it, such as 'Ann Lee agreed on 2 May 2026', or"
        " 'it is my own voice'; of many voices, which data and their licence. It goes into the card and must be given",
    )
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--baked", action="store_true", help="of a run of task clone, the baked checkpoint as well")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="remove files that were published there earlier and are not among these (older commits keep them)",
    )
    add_shared(parser, "--dry-run", note=" to the Hub; card and list of files go into a new temporary directory")
    add_shared(parser, "--quiet")


@command(_DESCRIPTION, _options)
def main(options) -> None:
    from mlx_voxclone.publish.card import check_consent

    consent = check_consent(options.consent)
    _check_repository(options.repo)
    if options.dry_run:
        _dry_run(options, consent)
        return
    with tempfile.TemporaryDirectory(prefix="voxclone-publish-") as staging:
        _publish(options, consent, Path(staging))


def _dry_run(options, consent: str) -> None:
    import shutil

    from mlx_voxclone.publish.publication import CARD, LIST

    staging = Path(tempfile.mkdtemp(prefix="voxclone-publish-"))
    try:
        publication = _collected(options, staging)
        _complete(publication, options, consent, staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    print(_table(publication))
    print(f"would publish {len(publication.files)} files, {format_bytes(publication.n_bytes)}, as {options.repo}")
    print(f"{'card':<12} {staging / CARD}\n{'list':<12} {staging / LIST}")


def _publish(options, consent: str, staging: Path) -> None:
    from mlx_voxclone.publish.upload import login, upload

    publication = _collected(options, staging)
    token = login(options.repo)
    _complete(publication, options, consent, staging)
    message(f"publishing {len(publication.files)} files, {format_bytes(publication.n_bytes)}")
    done = upload(
        publication, options.repo, token, private=options.private, replace=options.replace, quiet=options.quiet
    )
    if done.removed:
        message(f"removed {', '.join(done.removed)}")
    if not done.changed:
        message(f"{options.repo} holds all of it already: nothing has changed")
    message(f"{options.repo} is {'private' if done.private else 'public'}")
    print(_table(publication))
    print(done.address)


def _collected(options, staging: Path) -> "Publication":
    """Everything that goes up but the card, checked."""
    from mlx_voxclone.publish.sources import collect

    publication = collect(Path(options.source), staging, with_baked=options.baked)
    if publication.left_out:
        message(f"stays here: {', '.join(publication.left_out)}")
    return publication


def _complete(publication: "Publication", options, consent: str, staging: Path) -> None:
    """Write card and list."""
    from mlx_voxclone.process.progress import progress_bar
    from mlx_voxclone.publish.card import model_card

    card = model_card(publication, options.repo, consent)
    with progress_bar(
        quiet=options.quiet, total=publication.n_bytes, desc="files", unit="B", unit_scale=True, delay=1
    ) as bar:
        publication.complete(card, staging, bar.update)


def _check_repository(name: str) -> None:
    from mlx_voxclone.errors import CheckpointError
    from mlx_voxclone.publish.upload import is_repository

    if not is_repository(name):
        raise CheckpointError(
            f"--repo {name}: expected OWNER/NAME, such as ann/my-voice (letters, digits, -, _ and ., at most 96)"
        )


def _table(publication: "Publication") -> str:
    """Names and sizes of all files."""
    sizes = {name: format_bytes(path.stat().st_size) for name, path in sorted(publication.files.items())}
    width = max(map(len, sizes))
    return "\n".join(f"{name:<{width}}  {size:>8}" for name, size in sizes.items())
