"""What a voice can be made from: a recording, a file of codes, or rows made before, in a file or in memory."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.voices import EMBEDDING, read_voice
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.speech.speaker import read_references, reference_codes, reference_warnings

CODES = "codes"
VoiceSource = str | Path | Sequence[str | Path] | mx.array


def _is_recording(path: Path) -> bool:
    """Whether a voice's source is read as audio."""
    return path.suffix not in (".pt", ".safetensors")


class VoiceMaker:
    """Makes voice rows for a checkpoint; the model is loaded when the first source needs it.

    Args:
        release: the checkpoint.
        encoder_file: encoder to use for recordings; None: the checkpoint's own.

    Attributes:
        warnings: of the last voice made: what is odd about its recordings.
    """

    def __init__(self, release: Release, encoder_file: str | Path | None = None):
        self.release, self.encoder_file = release, encoder_file
        self.warnings: list[str] = []
        self._model: Voxtral | None = None

    def make(self, source: "VoiceSource") -> mx.array:
        """The rows of a voice.

        Args:
            source: rows `[N, dim]`, or a path: `.pt` or `.safetensors` with `embedding` `[N, dim]`; `.safetensors` with
                `codes` `[37, T]` (without the +2); anything else is read as audio, at its own level. Several recordings
                are taken together.

        Returns:
            `[N, dim]` BF16, the END row last.

        Raises:
            CheckpointError: not usable, too wide or narrow for the model, or a recording and no encoder.
            DataError: audio that cannot be read, or that no voice can be taken from (`speech.speaker.check_reference`).
        """
        if isinstance(source, mx.array):
            self.warnings = []
            return self._fitting(source, "voice")
        sources = [Path(s) for s in ([source] if isinstance(source, str | Path) else source)]
        for path in sources:
            if not path.is_file():
                raise CheckpointError(f"{path}: no such file; a voice is made of a recording, codes or an embedding")
            if len(sources) > 1 and not _is_recording(path):
                raise CheckpointError(f"{path}: codes and embeddings are one voice each; only recordings can be joined")
        self.warnings = []
        source = sources[0]
        if _is_recording(source):
            rows = self._recorded(sources)
        else:
            rows = read_voice(source) if source.suffix == ".pt" else self._stored(source)
        return self._fitting(rows, source)

    def _fitting(self, rows: mx.array, source: str | Path) -> mx.array:
        self.release.check_voice_rows(source, *rows.shape)
        rows = rows.astype(mx.bfloat16)
        mx.eval(rows)
        return rows

    def _stored(self, source: Path) -> mx.array:
        file = TensorFile(source)
        if EMBEDDING in file:
            return read_voice(source)
        if CODES not in file:
            raise CheckpointError(f"{source}: holds neither {EMBEDDING!r} nor {CODES!r}")
        codes = file.stored(CODES)
        if codes.ndim == 2 and codes.shape[1] == 0:
            raise CheckpointError(f"{source}: holds no frames")
        if codes.ndim == 2:
            self.release.check_voice_rows(source, codes.shape[1] + 1, self.release.config.backbone.dim)
        try:
            return self._loaded().voice_embedding(codes)
        except ValueError as e:
            raise CheckpointError(f"{source}: {e}") from None

    def _recorded(self, sources: Sequence[Path]) -> mx.array:
        if self.encoder_file is None and not self.release.has_encoder:
            raise CheckpointError(
                f"{sources[0]}: a recording needs a codec encoder and this model has none; give --encoder"
            )
        clips = read_references(sources)
        self.warnings = reference_warnings(clips)
        return self._loaded().voice_embedding(reference_codes(self._loaded().audio_tokenizer, clips))

    def _loaded(self) -> Voxtral:
        if self._model is None:
            self._model = load_model(self.release, parts=("lm", "codec"), encoder_file=self.encoder_file)
        return self._model
