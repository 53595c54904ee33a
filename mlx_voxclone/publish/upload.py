"""The upload: one commit into a repository that is new, empty, or holds what voxclone has published before."""

import re
from dataclasses import dataclass
from typing import Any

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.hub import REPOSITORY, hub_errors, library_output, reason
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.publish.publication import CARD, LIST, Publication, listed_files

GIT_FILES = {".gitattributes"}  # what the hub puts into a new repository
_PUBLISHED_AT = "published at"


@dataclass(frozen=True)
class Upload:
    """What an upload came to.

    Args:
        address: of the commit, on the web.
        commit: its id.
        changed: whether anything was.
        removed: files of the earlier publication that are gone.
        private: whether the repository is.
    """

    address: str
    commit: str
    changed: bool
    removed: list[str]
    private: bool


def is_repository(name: str) -> bool:
    """Whether it is a name that the hub takes for a repository: `OWNER/NAME`."""
    clean = not any(part in name for part in ("--", "..")) and not name.endswith((".git", ".", "-"))
    return REPOSITORY.fullmatch(name) is not None and clean and len(name) <= 96


def login(repository: str) -> str:
    """The user's token, from HF_TOKEN or where `hf auth login` has put it.

    Raises:
        CheckpointError: there is none.
    """
    from huggingface_hub import get_token

    with hub_errors(f"{repository}: not published"):
        token = get_token()
    if not token:
        raise CheckpointError(
            f"{repository}: not published, you are not logged in; log in with `hf auth login` (a token that may write),"
            " or set HF_TOKEN"
        )
    return token


def upload(
    publication: Publication,
    repository: str,
    token: str,
    *,
    private: bool = False,
    replace: bool = False,
    quiet: bool = False,
) -> Upload:
    """Upload a complete publication in one commit and compare what then lies on the hub.

    Args:
        publication: with its card (`Publication.complete`).
        repository: `OWNER/NAME`; made if need be.
        token: see `login`.
        private: make it private, or require that it is.
        replace: remove files that an earlier publication put there and this one lacks.
        quiet: no progress bars.

    Raises:
        CheckpointError: no access, no network, content of others in the repository, or a public repository where a
            private one is wanted. Nothing has changed then, but for an empty repository that may have been made. Or,
            with the commit's address (`address_in`): it is published, but was not found there as it is here.
        KeyboardInterrupt: with the address, too, where it is published by then.
    """
    if CARD not in publication.files or LIST not in publication.files:
        raise ValueError("a publication is complete with its card")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    with library_output(quiet), hub_errors(f"{repository}: not published"):
        api = HfApi(token=token)
        there = _repository(api, repository)
        stale: list[str] = []
        if there is not None:
            if private and not there.private:
                raise CheckpointError(
                    f"{repository}: exists and is public; make it private in its settings, or leave out --private"
                )
            stale = _stale(api, there, publication, replace)
        else:
            api.create_repo(repository, private=True if private else None)
            there = api.model_info(repository)
        operations: list[Any] = [CommitOperationDelete(name, is_folder=False) for name in stale]
        for name, path in sorted(publication.files.items()):
            operations.append(CommitOperationAdd(name, str(path)))
        made = api.create_commit(
            repository, operations, commit_message="Published with voxclone", parent_commit=there.sha
        )
        address = str(made.commit_url)
        try:
            _verify(api, repository, made.oid, publication)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_unverified(repository, address, "it was interrupted")) from None
        except Exception as e:
            why = str(e) if isinstance(e, CheckpointError) else reason(e)
            raise CheckpointError(_unverified(repository, address, why)) from e
    return Upload(address, made.oid, made.oid != there.sha, stale, bool(there.private))


def _unverified(repository: str, address: str, why: str) -> str:
    return f"{repository}: {_PUBLISHED_AT} {address}, not verified ({why}); run again"


def address_in(line: str) -> str | None:
    """The commit's address in the line of an upload that was published but not verified; None: it has none."""
    found = re.search(rf"{_PUBLISHED_AT} (https?://\S+), not verified", line)
    return found and found[1]


def _repository(api, repository: str):
    """What the hub says about a repository; None: there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repository)
    except RepositoryNotFoundError:
        return None


def _stale(api, there, publication: Publication, replace: bool) -> list[str]:
    """Files of an earlier publication that this one lacks.

    Raises:
        CheckpointError: the repository holds what was not published with voxclone, or such files without `replace`.
    """
    names = {sibling.rfilename for sibling in there.siblings or ()} - GIT_FILES
    if not names:
        return []
    earlier = _earlier(api, there) if LIST in names else None
    if earlier is None:
        raise CheckpointError(
            f"{there.id}: holds files that voxclone did not publish ({_some(names)}); choose another name"
        )
    ours = {*earlier, CARD, LIST}
    if foreign := sorted((names - ours) & publication.files.keys()):
        raise CheckpointError(
            f"{there.id}: {foreign[0]} is there and was not published with voxclone; move it away, or choose another"
            " name"
        )
    stale = sorted((names & ours) - publication.files.keys())
    if stale and not replace:
        raise CheckpointError(
            f"{there.id}: holds {_some(stale)} of an earlier publication, which this one lacks; choose another name, or"
            " add --replace to remove them (older commits keep them)"
        )
    return stale


def _earlier(api, there) -> set[str] | None:
    path = api.hf_hub_download(there.id, LIST, revision=there.sha)
    try:
        listed = listed_files(read_json(path))
    except ValueError:
        return None
    return None if listed is None else set(listed)


def _verify(api, repository: str, commit: str, publication: Publication) -> None:
    """Compare sizes, and SHA-256 where the hub has them, with what was to be uploaded. Raises CheckpointError."""
    listed = listed_files(read_json(publication.files[LIST])) or {}
    info = api.model_info(repository, revision=commit, files_metadata=True)
    found = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    for name, path in publication.files.items():
        there = found.get(name)
        digest = getattr(there.lfs, "sha256", None) if there is not None and there.lfs else None
        wanted = listed.get(name, {})
        if there is None or there.size != wanted.get("bytes", path.stat().st_size):
            raise CheckpointError(f"{name} did not arrive as it is here")
        if digest is not None and digest != wanted.get("sha256", digest):
            raise CheckpointError(f"{name} arrived with another SHA-256 than it has here")


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
