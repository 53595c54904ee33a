"""Where audio may be written to, checked before minutes are spent on what is to be written."""

from pathlib import Path

from mlx_voxclone.errors import DataError

OTHER_AUDIO = (".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".aif")


def check_output(path: str | Path) -> None:
    """Refuse a place where no file can be written, for those who first spend minutes on what is to be written.

    Raises:
        DataError: its directory does not exist, or it is a directory itself.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such directory to write {path.name} into")
    if path.is_dir():
        raise DataError(f"{path}: is a directory; name the file to write")


def check_wav_output(output: str | Path, *inputs: str | Path | None) -> Path:
    """Where to write a WAV, links followed; what is there may be replaced only if it is a WAV and none of the inputs.

    Raises:
        DataError: another kind of file or name, one of the inputs, or no directory to write into.
    """
    check_output(output)
    path = Path(output).resolve()
    if path.suffix.lower() in OTHER_AUDIO:
        raise DataError(f"{output}: only WAV is written; give a name that ends in .wav")
    if path.exists():
        if any(name is not None and Path(name).exists() and path.samefile(name) for name in inputs):
            raise DataError(f"{output}: is an input of this command; write to another file")
        if not path.is_file() or path.open("rb").read(4) not in (b"RIFF", b""):
            raise DataError(f"{output}: exists and is not a WAV file; it will not be replaced")
    return path
