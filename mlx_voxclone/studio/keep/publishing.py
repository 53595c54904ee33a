"""A finished voice shared on the hub: first what would be uploaded, then the upload, each by `voxclone publish`.

What is uploaded is decided by the room `publish`: never a recording, a transcript or a path of this machine.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import CheckpointError, VoxcloneError
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.publish.card import check_consent
from mlx_voxclone.publish.publication import CARD, LIST, listed_files
from mlx_voxclone.publish.upload import address_in, is_repository
from mlx_voxclone.studio.child import Failed, Stopped, carry_out
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.keep.made import made_of
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.tasks import Task

LOOK, PUBLISH = "publish-look", "publish"  # kinds of the tasks
_MOST_CARD = 200_000  # characters


@dataclass(frozen=True)
class Wanted:
    """What a person has asked for.

    Attributes:
        repository: `OWNER/NAME`. consent: as it stands in the model card. private: nobody else may see it.
        baked: the whole checkpoint as well.
    """

    repository: str
    consent: str
    private: bool = True
    baked: bool = False

    @property
    def mark(self) -> str:
        """Changes with any of it: what was looked at is what is published."""
        return hashlib.sha256(repr(asdict(self)).encode()).hexdigest()


def wanted(project: Project, repository: str, consent: str, *, private: bool, baked: bool) -> Wanted:
    """A person's wish, checked.

    Raises:
        Mistake: nothing was trained, no consent was recorded, another form of name, or no statement.
    """
    made = made_of(project)
    if made is None:
        raise Mistake("", "keep.wrong.not_trained")
    if made.baked is None:
        raise Mistake("", "keep.wrong.baked_gone")
    if not project.info().get("consent"):
        raise Mistake("", "keep.wrong.no_consent")
    if not is_repository(repository.strip()):
        raise Mistake("repository", "keep.wrong.repository")
    try:
        statement = check_consent(consent)
    except CheckpointError:
        raise Mistake("consent", "keep.wrong.consent") from None
    return Wanted(repository.strip(), statement, private, baked)


def statement_of(project: Project) -> str:
    """What was recorded of the consent, as one line for the model card; empty: nothing was."""
    consent = project.info().get("consent")
    if not isinstance(consent, dict):
        return ""
    parts = [f"{consent.get('who', '')} agreed on {str(consent.get('when', ''))[:10]}"]
    parts += [f"Purpose: {consent['purpose']}"] if consent.get("purpose") else []
    parts += [str(consent["statement"])] if consent.get("statement") else []
    return " ".join(". ".join(parts).split())[:1000]


def has_token() -> bool:
    """Whether this machine is logged in to the hub, or its environment has a token."""
    from huggingface_hub import get_token

    with contextlib.suppress(OSError, ValueError):
        return bool(get_token())
    return False


def look(project: Project, wish: Wanted) -> Callable[[Task], dict[str, Any]]:
    """The work of finding out what would be uploaded; the network is not asked.

    Its result: `files` (name, bytes), `card`, and of `wish` all that is needed to go on.
    """

    def work(task: Task) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="voxclone-look-") as folder:
            carry_out(
                task, [*_arguments(project, wish), "--dry-run"], folder=Path(folder), environment={"TMPDIR": folder}
            )
            card = next(Path(folder).glob(f"*/{CARD}"))
            listed = listed_files(read_json(card.with_name(LIST))) or {}
            files = [[name, int(entry["bytes"])] for name, entry in sorted(listed.items())]
            files += [[path.name, path.stat().st_size] for path in (card, card.with_name(LIST))]
            text = card.read_text(encoding="utf-8")[:_MOST_CARD]
        return {"files": files, "card": text, "mark": wish.mark, **asdict(wish)}

    return work


def publish(project: Project, wish: Wanted) -> Callable[[Task], dict[str, Any]]:
    """The work of uploading it: one commit. Its result: `address`.

    It is done, too, where it was published before it was cancelled, or where that cannot be noted with the voice. It
    fails with a Mistake that has the address where it was published, but was not found there as it is here.
    """

    def work(task: Task) -> dict[str, Any]:
        folder = tempfile.mkdtemp(prefix="voxclone-publish-")
        unverified = None
        try:
            said = carry_out(task, _arguments(project, wish), folder=Path(folder), environment={"TMPDIR": folder})
            address = _last_address(said)
        except (Failed, Stopped) as e:
            unverified = address_in(e.said)
            address = unverified or (_last_address(e.output) if isinstance(e, Stopped) else "")
            if not address:
                raise
            line = str(e) if isinstance(e, Failed) else ""
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(VoxcloneError):  # a full disk, a voice that was deleted: it is published all the same
            project.change(published={"repository": wish.repository, "address": address, "private": wish.private})
        if unverified:
            raise Mistake("", "keep.wrong.not_verified", line=line, address=address)
        return {"address": address, "repository": wish.repository, "private": wish.private}

    return work


def _last_address(output: str) -> str:
    """What the command prints last when all is done; empty: it has not come so far."""
    last = (output.split() or [""])[-1]
    return last if last.startswith(("https://", "http://")) else ""


def _arguments(project: Project, wish: Wanted) -> list[str]:
    options = ["--private"] if wish.private else []
    options += ["--baked"] if wish.baked else []
    source = os.fspath(project.run)
    return ["publish", source, f"--repo={wish.repository}", f"--consent={wish.consent}", "--quiet", *options]
