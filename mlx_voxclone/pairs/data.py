"""Pairs of audio and true codes, as training reads them: what `voxclone pairs` wrote (see `pairs/files.py`).

The shards decide what is there: each carries the lines of its pairs itself, and `manifest.jsonl` only repeats them.
Everything is checked when it is loaded, the audio by its header; audio is decoded by `Pair.read` alone. No array of
MLX's is made, so that a loader's thread may use all of it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import read_samples
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.checkpoint.digests import decoder_digest
from mlx_voxclone.data.entries import lies_inside, read_lines
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import parse_json, read_json
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.pairs.files import FORMAT, MANIFEST, MOVED, SETTINGS, SHARDS, STORED, audio_of, read_shard

if TYPE_CHECKING:
    from mlx_voxclone.checkpoint.release import Release

HELDOUT_TEXTS = 0.05  # share of the texts that are kept for measuring, wherever pairs are learnt from
_AGAIN = "make the pairs again"


@dataclass(frozen=True, eq=False)
class Pair:
    """One utterance: its audio and the codes it was decoded from.

    Attributes:
        id: unique in its `PairData`.
        audio: the file, `frames * 1920` samples at 24 kHz.
        augmented: the same as if recorded (room, noise, ...); None where there is none.
    """

    id: str
    audio: Path
    augmented: Path | None
    text: str
    language: str | None
    voice: str
    frame_size: int = field(repr=False)
    stored: np.ndarray = field(repr=False)  # int16 [37, T]

    @property
    def codes(self) -> np.ndarray:
        """int32 `[37, T]`, 0-based; a copy."""
        return self.stored.astype(np.int32)

    @property
    def name(self) -> str:
        """What it is called where recordings are, too, whose ids may be those of pairs."""
        return f"pair {self.id}"

    @property
    def frames(self) -> int:
        return self.stored.shape[1]

    @property
    def is_moved(self) -> bool:
        """Whether nobody said it so: its codes are those of another pair, moved (`pairs/moved.py`)."""
        return self.voice.startswith(MOVED)

    def read(self, augmented: bool = False, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 `[T * 1920]`, or the samples from `start` to `stop` alone.

        Raises:
            DataError: the file is missing, damaged or of another length than its codes; no augmented audio.
        """
        path = self.augmented if augmented else self.audio
        if path is None:
            raise DataError(f"{self.name} has no augmented audio; make the pairs with --augment")
        samples, count = read_samples(path, start, stop, max_channels=1)
        if count != self.frames * self.frame_size:
            raise DataError(_length_message(path, count, self.frames, self.frame_size))
        return samples


@dataclass(frozen=True)
class PairData:
    """Directories that `voxclone pairs` wrote, taken together.

    Attributes:
        train, heldout: pairs to learn from and to measure by; no text has pairs in both, whatever the voice.
    """

    directories: list[Path]
    train: list[Pair]
    heldout: list[Pair]
    sampling_rate: int
    _digest: str = field(repr=False)

    @classmethod
    def load(
        cls,
        paths: str | Path | Sequence[str | Path],
        codec_config: CodecConfig,
        *,
        heldout: float = HELDOUT_TEXTS,
        seed: int = 0,
        decoder_digest: str | None = None,
    ) -> "PairData":
        """Read directories of pairs; the codes of all of them stay in memory, 74 bytes a frame (3.3 MB an hour).

        Args:
            paths: one directory or several.
            codec_config: of the model that is to be trained.
            heldout: share of the texts to hold out, drawn by a hash of (seed, text), so that more pairs move none that
                were there to the other side. Where it is above 0 and there are two texts, at least one and never all.
            seed: of that draw.
            decoder_digest: of the model: pairs that another codec decoded are then refused.

        Raises:
            DataError: no pairs there; pairs of another model or codec; codes out of range; audio missing, unreadable
                or of another length than its codes; the same pairs twice.
            CheckpointError: a shard that is truncated or contradicts itself.
        """
        if not 0 <= heldout < 1:
            raise ValueError(f"heldout must be a share in 0..1 (below 1), got {heldout}")
        directories = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
        if not directories:
            raise DataError("no directory of pairs is given; name what `voxclone pairs` wrote")
        digest, pairs = hashlib.sha256(), []
        for number, directory in enumerate(directories):
            if directory.resolve() in [other.resolve() for other in directories[:number]]:
                raise DataError(f"{directory}: named twice as a directory of pairs; name it once")
            settings = _settings(directory, decoder_digest)
            digest.update(json.dumps(settings, sort_keys=True).encode() + b"\n")
            prefix = f"{number}/" if len(directories) > 1 else ""
            pairs.append(_load_directory(directory, codec_config, prefix, digest))
        _refuse_repeated(directories, pairs)
        together = [pair for own in pairs for pair in own]
        held = _held_out([_sentence(pair) for pair in together], heldout, seed)
        sides: tuple[list[Pair], list[Pair]] = ([], [])
        for pair in together:
            sides[_sentence(pair) in held].append(pair)
        return cls(directories, *sides, codec_config.sampling_rate, digest.hexdigest())

    @classmethod
    def of_model(
        cls,
        paths: str | Path | Sequence[str | Path],
        release: "Release",
        *,
        heldout: float = HELDOUT_TEXTS,
        seed: int = 0,
    ) -> "PairData":
        """`load`, for a release; pairs that another codec decoded are refused. Arguments and errors as there."""
        digest = decoder_digest(release.tensors)
        return cls.load(paths, release.config.codec, heldout=heldout, seed=seed, decoder_digest=digest)

    def check_voices(self, release: "Release") -> None:
        """Raise DataError if a voice that spoke is none of the release's."""
        if strange := sorted({pair.voice for pair in self.pairs} - set(release.voices())):
            raise DataError(
                f"{self.directories[0]}: was spoken with {', '.join(strange[:3])}, which {release.path} has not; make"
                " the pairs again with this model"
            )

    def check_heldout(self) -> None:
        """Raise DataError if there is nothing to measure by."""
        if not self.heldout:
            raise DataError(f"{self.directories[0]}: too few texts to hold some out; make more pairs")

    @property
    def pairs(self) -> list[Pair]:
        """All of them: train, heldout."""
        return [*self.train, *self.heldout]

    @property
    def seconds(self) -> float:
        """Of audio, `train` and `heldout` together (augmented audio not counted)."""
        return sum(pair.frames * pair.frame_size for pair in self.pairs) / self.sampling_rate

    def fingerprint(self) -> str:
        """Identity of the content (settings, codes, texts, which files; not where it lies): sha256.

        The audio follows from the codes and the codec, whose digest the settings hold.
        """
        return self._digest


def _settings(directory: Path, decoder_digest: str | None) -> dict[str, Any]:
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory of pairs; make them with `voxclone pairs`")
    path = directory / SETTINGS
    if not path.is_file():
        raise DataError(f"{directory}: holds no pairs ({SETTINGS} is missing); make them with `voxclone pairs`")
    try:
        settings = dict(read_json(path))
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path}: not readable; {_AGAIN}") from None
    if settings.get("format") != FORMAT:
        raise DataError(f"{path}: format {settings.get('format')!r}, {FORMAT!r} is read here; {_AGAIN}")
    if decoder_digest is not None and settings.get("codec") != decoder_digest:
        raise DataError(
            f"{directory}: these pairs were decoded by another codec than this model's; {_AGAIN} with this model"
        )
    return settings


def _load_directory(directory: Path, config: CodecConfig, prefix: str, digest: Any) -> list[Pair]:
    pairs, where, listed = [], {}, {}
    for path in sorted(directory.glob(SHARDS)):
        file, lines, _ = read_shard(path)
        digest.update(path.read_bytes())
        for line in lines:
            name = line["id"]
            if name in where:
                raise DataError(f"{path}: pair {name} is in {where[name]} too; delete one of the shards and {_AGAIN}")
            where[name], listed[name] = path.name, line
            codes = _checked_codes(file.stored(name), config, f"{path}: pair {name}")
            pairs.append(_pair(directory, line, codes, config, prefix, f"{path}: pair {name}"))
    if not pairs:
        raise DataError(f"{directory}: holds no pairs yet; make some with `voxclone pairs`")
    _check_manifest(directory / MANIFEST, listed)
    return pairs


def _check_manifest(path: Path, listed: dict[str, dict[str, Any]]) -> None:
    """Refuse a damaged list beside the shards, whose lines it repeats; it may be missing, or lag behind them."""
    for number, text in read_lines(path, blank=True) if path.exists() else ():
        try:
            line = parse_json(text)
            frames = listed.get(line["id"], line)["frames"]
            sound = line["frames"] == frames and all(map(lies_inside, audio_of([line])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise DataError(
                f"{path}:{number}: is not what the shards say; delete the list, `voxclone pairs` writes it again"
            )


def _checked_codes(codes: np.ndarray, config: CodecConfig, where: str) -> np.ndarray:
    """int16 `[37, T]`, in memory of its own."""
    if codes.dtype.kind not in "iu" or codes.ndim != 2:
        raise DataError(f"{where}: codes of type {codes.dtype}, shape {list(codes.shape)} are not codes; {_AGAIN}")
    if codes.shape[0] != config.n_codebooks:
        raise DataError(
            f"{where}: {codes.shape[0]} codebooks where this model has {config.n_codebooks}; made with another model,"
            f" {_AGAIN} with this one"
        )
    if not codes.shape[1]:
        raise DataError(f"{where}: holds no frames; {_AGAIN}")
    sizes = np.array(config.codebook_sizes)[:, None]
    wrong = (codes < 0) | (codes >= sizes)
    if wrong.any():
        book, frame = np.argwhere(wrong)[0]
        raise DataError(
            f"{where}: code {codes[book, frame]} at codebook {book}, frame {frame} is outside 0..{sizes[book, 0] - 1};"
            f" damaged or made with another model, {_AGAIN}"
        )
    return codes.astype(STORED)


def _pair(
    directory: Path, line: dict[str, Any], codes: np.ndarray, config: CodecConfig, prefix: str, where: str
) -> Pair:
    text, language, voice = (line.get(key) for key in ("text", "language", "voice"))
    if not (isinstance(text, str) and isinstance(voice, str) and isinstance(language, str | None)):
        raise DataError(f"{where}: its text, language or voice is no text; {_AGAIN}")
    if type(line.get("frames")) is not int or line["frames"] != codes.shape[1]:
        raise DataError(f"{where}: {codes.shape[1]} frames of codes where {line.get('frames')} are listed; {_AGAIN}")
    files = [directory / line[key] if key in line else None for key in ("audio", "augmented")]
    for path in files:
        if path is not None:
            _check_audio(path, codes.shape[1], config)
    return Pair(prefix + line["id"], *files, text, language, voice, config.frame_size, codes)


def _check_audio(path: Path, frames: int, config: CodecConfig) -> None:
    try:
        info = audio_info(path, most=frames * config.frame_size / config.sampling_rate)
    except AudioError as e:
        raise DataError(f"{e}; restore it, or delete its shard and {_AGAIN}") from None
    if (info.sample_rate, info.channels) != (config.sampling_rate, 1):
        raise DataError(
            f"{path}: {info.channels} channels at {info.sample_rate} Hz where pairs have one at"
            f" {config.sampling_rate} Hz; {_AGAIN}"
        )
    if info.frames != frames * config.frame_size:
        raise DataError(_length_message(path, info.frames, frames, config.frame_size))


def _length_message(path: Path, samples: int, frames: int, frame_size: int) -> str:
    return f"{path}: {samples} samples where its {frames} frames of codes make {frames * frame_size}; {_AGAIN}"


def _refuse_repeated(directories: Sequence[Path], pairs: Sequence[Sequence[Pair]]) -> None:
    """Two runs of `pairs` with one seed say their first sentences alike: they would count double unnoticed."""
    seen: dict[tuple[str, str, bytes], Pair] = {}
    for directory, own in zip(directories, pairs):
        keys = [(pair.text, pair.voice, pair.stored.tobytes()) for pair in own] if len(pairs) > 1 else []
        for key, pair in zip(keys, own):
            if key in seen:
                raise DataError(
                    f"{directory}: pair {pair.id.split('/', 1)[1]} is the same as {seen[key].audio}; leave out one of"
                    " the directories, or make its pairs with another seed"
                )
        seen |= dict(zip(keys, own))


def _sentence(pair: Pair) -> bytes:
    """What decides the side: the text but for case and spaces, and where there is none, the codes."""
    text = " ".join(pair.text.casefold().split())
    return text.encode("utf-8", "surrogatepass") if text else b"\0" + pair.stored.tobytes()


def _held_out(sentences: Sequence[bytes], share: float, seed: int) -> set[bytes]:
    if share == 0:
        return set()
    drawn = sorted((hashlib.sha256(f"{seed}\n".encode() + sentence).digest(), sentence) for sentence in set(sentences))
    limit = round(share * 2**64)
    count = sum(int.from_bytes(draw[:8], "big") < limit for draw, _ in drawn)
    count = min(max(count, 1), len(drawn) - 1)
    return {sentence for _, sentence in drawn[:count]}
