"""`params.json` -> the shape of the model.

The release's configuration is the only source of sizes. What it lacks is named once here, with where it comes from.
"""

import json
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import ConfigError

# Absent from params.json; defaults of the released serving code (vLLM-Omni 0.30, `voxtral_tts_audio_tokenizer.py`
# for the encoder's shape, `voxtral_tts_audio_generation.py` for the flow head).
ENCODER_TRANSFORMER_LENGTHS = "2,2,2,2"
ENCODER_CONV_KERNELS = "4,4,4,3"
ENCODER_CONV_STRIDES = "2,2,2,1"
HEAD_NORM_EPS = 1e-5
N_DECODING_STEPS = 7
CFG_ALPHA = 1.2
# Fixed by the serving code, not configurable there.
N_SPECIAL_CODES = 2  # each codebook starts with EMPTY and END
EMPTY_CODE, END_CODE = 0, 1


def _round_up(n: int, multiple: int) -> int:
    return (n + multiple - 1) // multiple * multiple


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one stack of pre-norm attention + SwiGLU blocks."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    norm_eps: float


@dataclass(frozen=True)
class BackboneConfig(TransformerConfig):
    """The language model: RoPE on interleaved pairs, tied embeddings."""

    rope_theta: float
    vocab_size: int
    max_seq_len: int


@dataclass(frozen=True)
class AcousticConfig(TransformerConfig):
    """The flow-matching head: bidirectional, no positions."""

    input_dim: int
    n_decoding_steps: int


@dataclass(frozen=True)
class CodecConfig:
    """The audio tokenizer (encoder, quantiser, decoder)."""

    sampling_rate: int
    patch_size: int
    patch_kernel: int
    semantic_codebook_size: int
    semantic_dim: int
    acoustic_codebook_size: int
    acoustic_dim: int
    dim: int
    hidden_dim: int
    head_dim: int
    n_heads: int
    window: int
    halve_window: bool
    norm_eps: float
    qk_norm_eps: float
    layer_scale_init: float
    encoder_lengths: tuple[int, ...]
    encoder_kernels: tuple[int, ...]
    encoder_strides: tuple[int, ...]
    decoder_lengths: tuple[int, ...]
    decoder_kernels: tuple[int, ...]
    decoder_strides: tuple[int, ...]

    @property
    def latent_dim(self) -> int:
        return self.semantic_dim + self.acoustic_dim

    @property
    def n_codebooks(self) -> int:
        """One semantic codebook and one per acoustic dimension."""
        return 1 + self.acoustic_dim

    @property
    def frame_size(self) -> int:
        """Waveform samples per latent frame (1920 in the release: 80 ms)."""
        return self.patch_size * prod(self.encoder_strides)

    @property
    def frame_rate(self) -> float:
        """Latent frames per second (12.5 in the release)."""
        return self.sampling_rate / self.frame_size

    def n_frames(self, samples: int) -> int:
        """Latent frames of a waveform of `samples` samples: ceil(samples / frame_size)."""
        return -(-samples // self.frame_size)

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Rows of each codebook in the LM's table, the two special codes included."""
        acoustic = self.acoustic_codebook_size + N_SPECIAL_CODES
        return (self.semantic_codebook_size + N_SPECIAL_CODES, *[acoustic] * self.acoustic_dim)

    @property
    def code_offsets(self) -> tuple[int, ...]:
        """First row of each codebook in the LM's table."""
        offsets, total = [], 0
        for size in self.code_sizes:
            offsets.append(total)
            total += size
        return tuple(offsets)

    @property
    def table_rows(self) -> int:
        """Rows of `audio_codebook_embeddings`, padded to a multiple of 128."""
        return _round_up(sum(self.code_sizes), 128)

    @property
    def semantic_logits(self) -> int:
        """Rows of `semantic_codebook_output`, padded to a multiple of 128."""
        return _round_up(self.code_sizes[0], 128)


@dataclass(frozen=True)
class VoxtralConfig:
    """The whole model, and the parts of `params.json` a server needs back unchanged (`raw`)."""

    backbone: BackboneConfig
    acoustic: AcousticConfig
    codec: CodecConfig
    bos_token_id: int
    audio_token_id: int
    begin_audio_token_id: int
    voices: dict[str, int]
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_file(cls, path: str | Path) -> "VoxtralConfig":
        """Read `params.json` (the file, or the directory that holds it).

        Raises:
            ConfigError: missing, no JSON, a key missing, or a value this model code does not implement.
        """
        path = Path(path)
        path = path / "params.json" if path.is_dir() else path
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: not found; a Voxtral directory holds params.json") from None
        except (OSError, ValueError) as e:
            raise ConfigError(f"{path}: not readable as JSON ({e})") from None
        return cls.from_dict(raw, str(path))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "params.json") -> "VoxtralConfig":
        """Build from the parsed content of `params.json`; see `from_file` for the errors."""
        try:
            multimodal = raw["multimodal"]
            tokenizer, audio = multimodal["audio_tokenizer_args"], multimodal["audio_model_args"]
            config = cls(
                backbone=_backbone(raw),
                acoustic=_acoustic(audio["acoustic_transformer_args"]),
                codec=_codec(tokenizer),
                bos_token_id=int(multimodal["bos_token_id"]),
                audio_token_id=int(audio["audio_token_id"]),
                begin_audio_token_id=int(audio["begin_audio_token_id"]),
                voices=dict(tokenizer.get("voice", {})),
                raw=raw,
            )
        except KeyError as e:
            raise ConfigError(f"{where}: key {e} is missing") from None
        except (TypeError, ValueError) as e:
            raise ConfigError(f"{where}: {e}") from None
        _check(config, raw, where)
        return config


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _backbone(raw: dict[str, Any]) -> BackboneConfig:
    return BackboneConfig(
        dim=raw["dim"],
        n_layers=raw["n_layers"],
        n_heads=raw["n_heads"],
        n_kv_heads=raw["n_kv_heads"],
        head_dim=raw["head_dim"],
        hidden_dim=raw["hidden_dim"],
        norm_eps=raw["norm_eps"],
        rope_theta=raw["rope_theta"],
        vocab_size=raw["vocab_size"],
        max_seq_len=raw.get("max_seq_len", 65536),
    )


def _acoustic(raw: dict[str, Any]) -> AcousticConfig:
    return AcousticConfig(
        dim=raw["dim"],
        input_dim=raw["input_dim"],
        n_layers=raw["n_layers"],
        n_heads=raw["n_heads"],
        n_kv_heads=raw["n_kv_heads"],
        head_dim=raw["head_dim"],
        hidden_dim=raw["hidden_dim"],
        norm_eps=raw.get("norm_eps", HEAD_NORM_EPS),
        n_decoding_steps=raw.get("n_decoding_steps", N_DECODING_STEPS),
    )


def _codec(raw: dict[str, Any]) -> CodecConfig:
    return CodecConfig(
        sampling_rate=raw["sampling_rate"],
        patch_size=raw["pretransform_patch_size"],
        patch_kernel=raw["patch_proj_kernel_size"],
        semantic_codebook_size=raw["semantic_codebook_size"],
        semantic_dim=raw["semantic_dim"],
        acoustic_codebook_size=raw["acoustic_codebook_size"],
        acoustic_dim=raw["acoustic_dim"],
        dim=raw["dim"],
        hidden_dim=raw["hidden_dim"],
        head_dim=raw["head_dim"],
        n_heads=raw["n_heads"],
        window=raw["attn_sliding_window_size"],
        halve_window=raw["half_attn_window_upon_downsampling"],
        norm_eps=raw["norm_eps"],
        qk_norm_eps=raw["qk_norm_eps"],
        layer_scale_init=raw["layer_scale_init"],
        encoder_lengths=_ints(raw.get("encoder_transformer_lengths_str", ENCODER_TRANSFORMER_LENGTHS)),
        encoder_kernels=_ints(raw.get("encoder_convs_kernels_str", ENCODER_CONV_KERNELS)),
        encoder_strides=_ints(raw.get("encoder_convs_strides_str", ENCODER_CONV_STRIDES)),
        decoder_lengths=_ints(raw["decoder_transformer_lengths_str"]),
        decoder_kernels=_ints(raw["decoder_convs_kernels_str"]),
        decoder_strides=_ints(raw["decoder_convs_strides_str"]),
    )


def _check(config: VoxtralConfig, raw: dict[str, Any], where: str) -> None:
    """Refuse what the model code would silently compute otherwise than the server."""
    tokenizer = raw["multimodal"]["audio_tokenizer_args"]
    audio = raw["multimodal"]["audio_model_args"]
    codec = config.codec
    wanted = [
        ("tied_embeddings", raw.get("tied_embeddings", True), True),
        ("use_biases", raw.get("use_biases", False), False),
        ("causal", raw.get("causal", True), True),
        ("acoustic_transformer_args.use_biases", audio["acoustic_transformer_args"].get("use_biases", False), False),
        ("audio_model_args.semantic_codebook_size", audio["semantic_codebook_size"], codec.semantic_codebook_size),
        ("audio_model_args.acoustic_codebook_size", audio["acoustic_codebook_size"], codec.acoustic_codebook_size),
        ("audio_model_args.n_acoustic_codebook", audio["n_acoustic_codebook"], codec.acoustic_dim),
        ("acoustic_transformer_args.input_dim", config.acoustic.input_dim, config.backbone.dim),
        ("audio_tokenizer_args.channels", tokenizer["channels"], 1),
        ("audio_tokenizer_args.conv_weight_norm", tokenizer["conv_weight_norm"], True),
        ("audio_tokenizer_args.causal", tokenizer["causal"], True),
        ("audio_tokenizer_args.qk_norm", tokenizer["qk_norm"], True),
        ("audio_tokenizer_args.use_biases", tokenizer["use_biases"], False),
        ("audio_tokenizer_args.layer_scale", tokenizer["layer_scale"], True),
        ("audio_tokenizer_args.n_kv_heads", tokenizer["n_kv_heads"], codec.n_heads),
        ("audio_tokenizer_args.n_heads * head_dim", codec.n_heads * codec.head_dim, codec.dim),
        ("decoder strides against the encoder's", prod(codec.decoder_strides), prod(codec.encoder_strides)),
    ]
    for name, value, expected in wanted:
        if value != expected:
            raise ConfigError(f"{where}: {name} is {value!r}; this model code implements {expected!r}")
    if codec.n_heads & (codec.n_heads - 1):
        raise ConfigError(f"{where}: audio_tokenizer_args.n_heads is {codec.n_heads}; ALiBi needs a power of two here")
    if codec.decoder_strides[0] != 1:
        raise ConfigError(f"{where}: the decoder's first convolution must have stride 1")
    for side in ("encoder", "decoder"):
        lengths, kernels, strides = (getattr(codec, f"{side}_{part}") for part in ("lengths", "kernels", "strides"))
        if not len(lengths) == len(kernels) == len(strides):
            raise ConfigError(f"{where}: the {side}'s lengths, kernels and strides differ in number")
        if any(s < 1 or k % s for k, s in zip(kernels, strides)):
            raise ConfigError(
                f"{where}: each {side} kernel must be a multiple of its stride, got {kernels} / {strides}"
            )
