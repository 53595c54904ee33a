"""Who is let in: a random token per name, kept beside the secret that marks the studio's own forms.

HOME/tokens.json, readable by its owner alone. The same tokens after a restart, or everybody would need a new address.
"""

import contextlib
import hmac
import json
import os
import re
import secrets
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.atomic import atomic_file
from mlx_voxclone.files.plain import parse_json, read_plain, reason_of
from mlx_voxclone.process.network import reached_from_outside
from mlx_voxclone.studio.home import NAME

FILE = "tokens.json"
ME = "me"  # the person of a studio without tokens
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 bits
_SECRET = re.compile(r"[0-9a-f]{64}")
_MOST = 1 << 20  # bytes


class Tokens:
    """The tokens of a studio.

    Args:
        folder: the studio's; None: nothing is kept. names: who is let in; none: everybody who reaches it, as `me`.
        new: replace the tokens of these names.

    Attributes:
        by_name: name -> token, of those who are let in.

    Raises:
        ConfigError: a name that cannot be one or is there twice, or a file that cannot be read.
        CheckpointError: the file cannot be written.
    """

    def __init__(self, folder: str | Path | None, names: Iterable[str] = (), *, new: bool = False) -> None:
        path, names = None if folder is None else Path(folder) / FILE, list(names)
        for k, name in enumerate(names):
            if not NAME.fullmatch(name):
                raise ConfigError(f"--share-token {name}: a name has a-z, 0-9, _ and -, at most 40 of them")
            if name in names[:k]:
                raise ConfigError(f"--share-token {name}: given twice")
        kept, secret = ({}, "") if path is None else _read(path)
        tokens = {name: secrets.token_urlsafe(32) if new or name not in kept else kept[name] for name in names}
        self._secret = bytes.fromhex(secret or secrets.token_hex(32))
        if path is not None and (not secret or tokens.items() - kept.items()):
            _write(path, {**kept, **tokens}, self._secret.hex())
        self.by_name = tokens

    @property
    def needed(self) -> bool:
        """Whether only those are let in who bring one."""
        return bool(self.by_name)

    def name_of(self, token: str) -> str | None:
        """Whose token it is; takes as long for a wrong one."""
        given, found = token.encode("utf-8", "replace"), None
        for name, known in self.by_name.items():
            if hmac.compare_digest(given, known.encode()):
                found = name
        return found

    def form_token(self, name: str) -> str:
        """What a form on this person's pages carries; the same after a restart, so that an open page still works."""
        return hmac.digest(self._secret, f"form {name}".encode(), "sha256").hex()


def check_reach(taken: socket.socket, names: Collection[str]) -> None:
    """Refuse to be reached from other machines where nobody needs a token. Raises ConfigError."""
    address = reached_from_outside(taken)
    if not names and address is not None:
        raise ConfigError(
            f"--host {address}: others could see and use these voices; give --share-token NAME, or listen on 127.0.0.1"
        )


def _read(path: Path) -> tuple[dict[str, str], str]:
    """Tokens by name, and the secret; neither where there is no file."""
    try:
        found = parse_json(read_plain(path, _MOST))
        with contextlib.suppress(OSError):  # a file system without modes
            os.chmod(path, 0o600)
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: cannot be read ({reason_of(e).lower()}); delete it to make new tokens") from None
    tokens, secret = (found.get("tokens"), found.get("secret")) if isinstance(found, dict) else (None, None)
    fits = isinstance(tokens, dict) and isinstance(secret, str) and _SECRET.fullmatch(secret)
    if not fits or not all(isinstance(token, str) and _TOKEN.fullmatch(token) for token in tokens.values()):
        raise ConfigError(f"{path}: holds no tokens of a studio; delete it to make new ones")
    if len(set(tokens.values())) < len(tokens):
        raise ConfigError(f"{path}: two names have one token; delete it to make new ones")
    return tokens, secret


def _write(path: Path, tokens: dict[str, str], secret: str) -> None:
    with atomic_file(path, overwrite=True) as file:
        os.fchmod(file.fileno(), 0o600)  # before anything is in it
        file.write((json.dumps({"tokens": tokens, "secret": secret}, indent=1) + "\n").encode())
