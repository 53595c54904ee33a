"""A checkpoint directory in the release's layout: what is in it, whether it fits together, and the model it makes.

params.json  tekken.json  consolidated.safetensors  voice_embedding/NAME.pt  [config.json  NAME.safetensors ...]
"""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_voxclone.checkpoint.dtypes import FLOATS
from mlx_voxclone.checkpoint.quantised import (
    TEXT_TABLE,
    StoredEmbedding,
    from_mlx_audio,
    kept_type,
    quantise_weights,
)
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY, read_voice
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.foreign import refuse_stand_in
from mlx_voxclone.files.hub import REPOSITORY, HubAddress, download, is_address
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.model.blocks.dequantised import dequantising
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.quantised import PACKED, SCALES, make_quantised
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.process.limits import too_little_address_space

WEIGHTS, PARAMS, TEKKEN, CONFIG = "consolidated.safetensors", "params.json", "tekken.json", "config.json"
CODEC_PREFIX, HEAD_PREFIX = "audio_tokenizer.", "acoustic_transformer."
ENCODER_PREFIXES = ("audio_tokenizer.input_proj.", "audio_tokenizer.encoder_blocks.")
LEGAL_TEXTS = ("LICEN[CS]E*", "[Ll]icen[cs]e*", "NOTICE*", "[Nn]otice*", "COPYING*", "THIRD*PARTY*")  # names of files
PARTS = ("lm", "head", "decoder", "encoder")
_NAMED = 3  # checkpoints in a suggestion
QUANTISED_FROM = "quantised_from"  # of a weight file's metadata: the fingerprint that it had in full
_FINGERPRINTED = 4096  # bytes at each end of a tensor


def part_of(name: str) -> str:
    """The part a tensor belongs to: `encoder`, `decoder` (the rest of the codec), `head` or `lm`."""
    if name.startswith(ENCODER_PREFIXES):
        return "encoder"
    if name.startswith(CODEC_PREFIX):
        return "decoder"  # the quantiser is part of it: released, frozen, needed to decode
    return "head" if name.startswith(HEAD_PREFIX) else "lm"


def resolve(model: str | Path) -> Path:
    """The directory of a model: itself, or a hub id (`OWNER/NAME`, or `hf://OWNER/NAME[@REVISION]`) fetched with
    huggingface-hub, only the files that are used.

    Raises:
        CheckpointError: neither a directory nor a model that the hub hands out.
    """
    path = Path(expanded(model))
    if path.is_dir():
        for name in (WEIGHTS, PARAMS, TEKKEN):
            refuse_stand_in(path / name, CheckpointError)
        return path
    if path.exists():
        raise CheckpointError(f"{path}: a file; give the directory that holds {WEIGHTS}")
    patterns = [WEIGHTS, PARAMS, TEKKEN, CONFIG, f"{VOICE_DIRECTORY}/*", "*.md", *LEGAL_TEXTS]
    if is_address(model):
        address = HubAddress.parse(model)
        if address.file:
            raise CheckpointError(f"{model}: a model is a whole repository; leave out the file")
        return download(address, patterns)
    if not REPOSITORY.fullmatch(str(model)):
        raise CheckpointError(f"{path}: no such directory{f'; {near}' if (near := _near(path)) else ''}")
    failed = f"{model}: no directory of this name here{f' ({near})' if (near := _near(path)) else ''}, and not fetched"
    failed += " from the hub"
    return download(HubAddress(str(model)), patterns, failed)


def _near(path: Path) -> str:
    """Which checkpoints beside a path that does not exist may be meant; empty where there are none."""
    try:
        beside = {entry.parent.name: str(entry.parent) for entry in path.parent.glob(f"*/{PARAMS}")}
    except OSError:
        return ""
    by_lower = {name.lower(): beside[name] for name in sorted(beside)}
    if near := difflib.get_close_matches(path.name.lower(), by_lower, n=1):
        return f"did you mean {by_lower[near[0]]}?"
    shown = ", ".join(list(by_lower.values())[:_NAMED])
    return f"checkpoints here: {shown}" + (", ..." if len(by_lower) > _NAMED else "") if by_lower else ""


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expected_shapes(config: VoxtralConfig, parts: Iterable[str] = PARTS) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of some parts, as the model built from `params.json` has them."""
    wanted = set(parts)
    model = Voxtral(config, encoder="encoder" in wanted)
    if config.quantisation is not None:
        make_quantised(model, config.quantisation)
    return {name: tuple(p.shape) for name, p in tree_flatten(model.parameters()) if part_of(name) in wanted}


def check_tensors(file: TensorFile, expected: dict[str, tuple[int, ...]]) -> None:
    """Compare names, shapes and types of a file's tensors with what a model expects.

    Args:
        file: the opened file.
        expected: name -> shape.

    Raises:
        CheckpointError: one line that names every missing, unexpected and misshapen tensor (beyond 20 of a kind,
            names that differ in their numbers alone are named together).
    """
    found = set(file.names())
    faults = []
    if missing := sorted(expected.keys() - found):
        faults.append(f"missing: {_listed(missing)}")
    if extra := sorted(found - expected.keys()):
        faults.append(f"unexpected: {_listed(extra)}")
    wrong = []
    for name in sorted(found & expected.keys()):
        info, shape = file.info(name), expected[name]
        if info.shape != shape:
            wrong.append(f"{name} {list(info.shape)} instead of {list(shape)}")
        elif info.dtype not in (("U32",) if _is_packed(name, expected) else FLOATS):
            wrong.append(f"{name} of type {info.dtype}")
    if wrong:
        faults.append(f"misshapen: {_listed(wrong)}")
    if faults:
        raise CheckpointError(f"{file.path} does not fit params.json: {'; '.join(faults)}")


def _is_packed(name: str, expected: dict[str, tuple[int, ...]]) -> bool:
    """Whether a tensor holds the packed levels of a quantised linear."""
    module, _, leaf = name.rpartition(".")
    return leaf == PACKED and f"{module}.{SCALES}" in expected


def _listed(items: list[str]) -> str:
    if len(items) <= 20:
        return ", ".join(items)
    groups = Counter(re.sub(r"\.\d+\.", ".*.", item) for item in items)
    return ", ".join(name if n == 1 else f"{name} ({n} of them)" for name, n in groups.items())


def open_encoder(path: str | Path, config: VoxtralConfig) -> TensorFile:
    """Open a file that holds a codec encoder and nothing else, under the release's names.

    Raises:
        CheckpointError: unreadable, or not exactly the encoder that `params.json` describes.
    """
    file = TensorFile(path)
    check_tensors(file, expected_shapes(config, ["encoder"]))
    return file


class Release:
    """A checkpoint directory, opened lazily: constructing it reads `params.json` alone.

    Args:
        model: directory or hub id.

    Raises:
        CheckpointError: no such model. ConfigError: `params.json` missing or not usable.
    """

    def __init__(self, model: str | Path):
        self.path = resolve(model)
        self.config = VoxtralConfig.from_file(self.path)

    @property
    def tokenizer_path(self) -> Path:
        return self.path / TEKKEN

    @cached_property
    def tensors(self) -> TensorFile:
        """`consolidated.safetensors`, memory-mapped, under the release's names."""
        return TensorFile(self.path / WEIGHTS, str if self.config.quantisation is None else from_mlx_audio)

    @property
    def has_encoder(self) -> bool:
        """Whether any encoder tensor is there (a server then expects all of them; `check` does too)."""
        return any(part_of(name) == "encoder" for name in self.tensors.names())

    def check(self) -> None:
        """Raise CheckpointError unless the tensors are exactly those of `params.json` (the encoder: all or none)."""
        parts = PARTS if self.has_encoder else [part for part in PARTS if part != "encoder"]
        check_tensors(self.tensors, expected_shapes(self.config, parts))

    def voices(self) -> list[str]:
        """Registered voices whose embedding is there, in the order of their numbers."""
        names = sorted(self.config.voices, key=self.config.voices.__getitem__)
        return [name for name in names if self._voice_file(name) is not None]

    def voice(self, name: str) -> mx.array:
        """The rows of a voice, `[N, dim]` with the END row last. Names are taken in lower case, as servers do.

        Raises:
            CheckpointError: unknown, unreadable, or not as wide as the model.
        """
        path = self._voice_file(name.lower()) if name.lower() in self.config.voices else None
        if path is None:
            known = ", ".join(self.voices()) or "none"
            raise CheckpointError(f"{self.path}: no voice called {name!r}; there are: {known}")
        return self.voice_of_file(path)

    def voice_of_file(self, path: str | Path) -> mx.array:
        """The rows of a voice in a `.pt` or `.safetensors` file, `[N, dim]` with the END row last.

        Raises:
            CheckpointError: unreadable, or not as wide as the model.
        """
        rows = read_voice(path)
        self.check_voice_rows(path, *rows.shape)
        return rows

    def check_voice_rows(self, source: str | Path, rows: int, width: int) -> None:
        """Raise CheckpointError for rows of a voice that are not as wide as the model, or leave no room for a text."""
        backbone = self.config.backbone
        if width != backbone.dim:
            raise CheckpointError(f"{source}: rows of {width}, but the model is {backbone.dim} wide")
        if rows > (most := backbone.max_seq_len // 2):
            raise CheckpointError(
                f"{source}: a voice of {rows} rows, {most} are possible: half of the model's context of"
                f" {backbone.max_seq_len}; take 3 to 25 s of speech"
                f" ({self.config.codec.frame_rate:g} rows a second)"
            )

    def _voice_file(self, name: str) -> Path | None:
        files = (self.path / VOICE_DIRECTORY / f"{name}{suffix}" for suffix in (".pt", ".safetensors"))
        return next((file for file in files if file.is_file()), None)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the LM's and the head's tensors: names, types, shapes, both ends of their bytes.

        Injecting an encoder or adding voices leaves it unchanged; folding adapters changes it. So it says which model
        an adapter was trained on, in a second instead of reading 8 GB.
        """
        return self._fingerprint

    @property
    def adapters_for(self) -> str:
        """The fingerprint that adapters of this model name: of a quantised one, that of what was quantised."""
        return self.tensors.metadata.get(QUANTISED_FROM) or self.fingerprint()

    def check_full(self, use: str) -> None:
        """Raise CheckpointError if the weights are quantised.

        Args:
            use: what needs them in full, such as `training`.
        """
        if self.config.quantisation is not None:
            raise CheckpointError(
                f"{self.path}: quantised ({self.config.quantisation}), and {use} needs the weights in full; give the"
                " checkpoint that it was made from"
            )

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(n for n in self.tensors.names() if part_of(n) in ("lm", "head")):
            info, data = self.tensors.info(name), self.tensors.raw(name)
            digest.update(f"{name} {info.dtype} {list(info.shape)}\n".encode())
            digest.update(data[:_FINGERPRINTED])
            digest.update(data[-_FINGERPRINTED:])
        return digest.hexdigest()

    def load_parameters(self, parts: Iterable[str]) -> dict[str, mx.array]:
        """Tensors of some parts (`lm`, `head`, `decoder`, `encoder`) as lazy arrays, after a check of the whole file.

        Raises:
            CheckpointError: tensors missing, unexpected or misshapen; `encoder` asked for and not there.
        """
        wanted = set(parts)
        if wanted - set(PARTS):
            raise ValueError(f"parts are {PARTS}, not {sorted(wanted - set(PARTS))}")
        self.check()
        if "encoder" in wanted and not self.has_encoder:
            raise CheckpointError(f"{self.path}: has no codec encoder; train one, then give it or bake it in")
        return self.tensors.arrays([name for name in self.tensors.names() if part_of(name) in wanted])


def load_model(
    release: Release,
    *,
    parts: Iterable[str] = ("lm", "head", "codec"),
    dtype: mx.Dtype = mx.float32,
    encoder_file: str | Path | None = None,
    quantisation: Quantisation | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Voxtral:
    """Build the model of a checkpoint with its weights, lazily: each is read when first evaluated.

    A quantised one, by the checkpoint or by `quantisation`, is for speaking: its text embedding stays in the file.

    Args:
        release: the opened directory.
        parts: `lm`, `head`, `codec` (the decoder, and the encoder where the checkpoint or `encoder_file` has one).
            The parameters of parts left out are uninitialised: do not evaluate them.
        dtype: of LM and head; the codec is in float32, in which the identity of codes is defined.
        encoder_file: take the encoder from this file, whatever the checkpoint has; rounded to BF16, as baking it in
            would, so that both give the same codes.
        quantisation: quantise LM and head now, tensor by tensor.
        progress: called with the bytes of weights quantised since the last call, and those in all.

    Raises:
        CheckpointError: see `Release.load_parameters` and `open_encoder`; a limit on this process is below their size;
            `quantisation` of a checkpoint that is quantised.
        ConfigError: groups that do not fill a linear's inputs.
    """
    chosen = set(parts)
    with_codec = "codec" in chosen
    in_release = with_codec and encoder_file is None and release.has_encoder
    wanted = (chosen - {"codec"}) | ({"decoder"} if with_codec else set()) | ({"encoder"} if in_release else set())
    stored = release.config.quantisation
    if stored is not None and quantisation is not None:
        raise CheckpointError(
            f"{release.path}: quantised already ({stored}); leave out the bits, or give the checkpoint that it was made"
            " from"
        )
    model = Voxtral(release.config, encoder=with_codec and (in_release or encoder_file is not None))
    quantised = stored or quantisation
    modules = frozenset(() if quantised is None else make_quantised(model, quantised))
    weights = release.load_parameters(wanted)
    if with_codec and encoder_file is not None:
        encoder = open_encoder(encoder_file, release.config).arrays()
        weights |= {name: value.astype(mx.bfloat16) for name, value in encoder.items()}
    if quantised is not None and weights.pop(TEXT_TABLE, None) is not None:
        model.mm_audio_embeddings.tok_embeddings = StoredEmbedding(release.tensors, TEXT_TABLE, dtype)
    saved = 0.0
    if quantisation is not None:
        in_full = sum(weights[name].nbytes for name in (f"{module}.weight" for module in modules) if name in weights)
        saved = in_full * (1 - quantisation.bits_stored / 16)
    if line := too_little_address_space(round(sum(value.nbytes for value in weights.values()) - saved)):
        raise CheckpointError(f"{release.path}: {line}")
    if quantisation is not None:
        quantise_weights(weights, sorted(modules), quantisation, progress)

    def typed(name: str, value: mx.array) -> mx.array:
        if quantised is not None and kept_type(name, value, modules, dtype):
            return value
        return value.astype(mx.float32 if name.startswith(CODEC_PREFIX) else dtype)

    # Names and shapes are checked above; parts left out stay as they are.
    model.load_weights([(name, typed(name, value)) for name, value in weights.items()], strict=False)
    if mx.default_device() == mx.cpu:
        dequantising(model)
    model.eval()
    return model
