"""`params.json` -> the shape of the model.

The release's configuration is the only source of sizes. What it lacks is named once here, with where it comes from.
"""

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.plain import read_json, reason_of
from mlx_voxclone.model.section import MAX_SIZE, Section, shown
from mlx_voxclone.model.widths import Quantisation

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
# Far above any real model: a wrong number is refused here, not after minutes of building it.
MAX_LAYERS = 1000


def _padded(rows: int) -> int:
    """The heads' rows come in multiples of 128."""
    return -(-rows // 128) * 128


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
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes of each codebook: 0-based ones are below these."""
        return (self.semantic_codebook_size, *[self.acoustic_codebook_size] * self.acoustic_dim)

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Rows of each codebook in the LM's table, the two special codes included."""
        return tuple(size + N_SPECIAL_CODES for size in self.codebook_sizes)

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
        return _padded(sum(self.code_sizes))

    @property
    def semantic_logits(self) -> int:
        """Rows of `semantic_codebook_output`, padded to a multiple of 128."""
        return _padded(self.code_sizes[0])


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
    quantisation: Quantisation | None  # of the stored weights; None: they are in full
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_file(cls, path: str | Path) -> "VoxtralConfig":
        """Read `params.json` (the file, or the directory that holds it).

        Raises:
            ConfigError: one line: missing, no JSON, a key missing, a value of the wrong type or out of bounds, or one
                that this model code does not implement.
        """
        path = Path(path)
        path = path / "params.json" if path.is_dir() else path
        try:
            raw = read_json(path)
        except FileNotFoundError:
            raise ConfigError(f"{path}: not found; a Voxtral directory holds params.json") from None
        except (OSError, ValueError) as e:
            raise ConfigError(f"{path}: not readable as JSON ({reason_of(e)})") from None
        return cls.from_dict(raw, str(path))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "params.json") -> "VoxtralConfig":
        """Build from the parsed content of `params.json`; see `from_file` for the errors."""
        top = Section(raw, where)
        multimodal = top.section("multimodal")
        tokenizer, audio = multimodal.section("audio_tokenizer_args"), multimodal.section("audio_model_args")
        head = audio.section("acoustic_transformer_args")
        backbone = _backbone(top)
        config = cls(
            backbone=backbone,
            acoustic=_acoustic(head),
            codec=_codec(tokenizer),
            bos_token_id=multimodal.index("bos_token_id", backbone.vocab_size),
            audio_token_id=audio.index("audio_token_id", backbone.vocab_size),
            begin_audio_token_id=audio.index("begin_audio_token_id", backbone.vocab_size),
            voices=_voices(tokenizer),
            quantisation=Quantisation.stated(raw, where),
            raw=raw,
        )
        _check_fixed(config, top, audio, head, tokenizer)
        _check_codec(config.codec, tokenizer)
        return config


def _voices(tokenizer: Section) -> dict[str, int]:
    voices = tokenizer.value("voice", {})
    if not isinstance(voices, dict):
        raise tokenizer.fault("voice", f"must be an object of name: number; got {shown(voices)}")
    for name, number in voices.items():
        if type(number) is not int or not 0 <= number <= MAX_SIZE:
            fault = f"must give {shown(name)} a whole number from 0 to {MAX_SIZE}; got {shown(number)}"
            raise tokenizer.fault("voice", fault)
    return dict(voices)


def _attention(section: Section) -> dict[str, int]:
    """The sizes that the language model and the flow head both have."""
    n_heads, n_kv_heads = section.size("n_heads"), section.size("n_kv_heads")
    if n_heads % n_kv_heads:
        raise section.fault("n_heads", f"({n_heads}) must be a multiple of n_kv_heads ({n_kv_heads})")
    return {
        "dim": section.size("dim"),
        "n_layers": section.size("n_layers", most=MAX_LAYERS),
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "head_dim": section.size("head_dim"),
        "hidden_dim": section.size("hidden_dim"),
    }


def _backbone(top: Section) -> BackboneConfig:
    sizes = _attention(top)
    if sizes["head_dim"] % 2:
        raise top.fault("head_dim", f"must be even, RoPE turns pairs; got {sizes['head_dim']}")
    return BackboneConfig(
        **sizes,
        norm_eps=top.positive("norm_eps"),
        rope_theta=top.positive("rope_theta"),
        vocab_size=top.size("vocab_size"),
        max_seq_len=top.size("max_seq_len", 65536),
    )


def _acoustic(head: Section) -> AcousticConfig:
    return AcousticConfig(
        **_attention(head),
        input_dim=head.size("input_dim"),
        norm_eps=head.positive("norm_eps", HEAD_NORM_EPS),
        n_decoding_steps=head.size("n_decoding_steps", N_DECODING_STEPS, most=MAX_LAYERS),
    )


def _codec(tokenizer: Section) -> CodecConfig:
    size, sizes = tokenizer.size, tokenizer.sizes
    return CodecConfig(
        sampling_rate=size("sampling_rate"),
        patch_size=size("pretransform_patch_size"),
        patch_kernel=size("patch_proj_kernel_size"),
        semantic_codebook_size=size("semantic_codebook_size"),
        semantic_dim=size("semantic_dim"),
        acoustic_codebook_size=size("acoustic_codebook_size"),
        acoustic_dim=size("acoustic_dim"),
        dim=size("dim"),
        hidden_dim=size("hidden_dim"),
        head_dim=size("head_dim"),
        n_heads=size("n_heads"),
        window=size("attn_sliding_window_size"),
        halve_window=tokenizer.flag("half_attn_window_upon_downsampling"),
        norm_eps=tokenizer.positive("norm_eps"),
        qk_norm_eps=tokenizer.positive("qk_norm_eps"),
        layer_scale_init=tokenizer.positive("layer_scale_init"),
        encoder_lengths=sizes("encoder_transformer_lengths_str", ENCODER_TRANSFORMER_LENGTHS, MAX_LAYERS),
        encoder_kernels=sizes("encoder_convs_kernels_str", ENCODER_CONV_KERNELS),
        encoder_strides=sizes("encoder_convs_strides_str", ENCODER_CONV_STRIDES),
        decoder_lengths=sizes("decoder_transformer_lengths_str", most=MAX_LAYERS),
        decoder_kernels=sizes("decoder_convs_kernels_str"),
        decoder_strides=sizes("decoder_convs_strides_str"),
    )


def _check_fixed(config: VoxtralConfig, top: Section, audio: Section, head: Section, tokenizer: Section) -> None:
    """Refuse what the model code would silently compute otherwise than the server."""
    codec = config.codec
    top.expect("tied_embeddings", True, default=True)
    top.expect("use_biases", False, default=False)
    top.expect("causal", True, default=True)
    head.expect("use_biases", False, default=False)
    head.expect("input_dim", config.backbone.dim)
    audio.expect("semantic_codebook_size", codec.semantic_codebook_size)
    audio.expect("acoustic_codebook_size", codec.acoustic_codebook_size)
    audio.expect("n_acoustic_codebook", codec.acoustic_dim)
    tokenizer.expect("channels", 1)
    tokenizer.expect("use_biases", False)
    for key in ("conv_weight_norm", "causal", "qk_norm", "layer_scale"):
        tokenizer.expect(key, True)
    tokenizer.expect("n_kv_heads", codec.n_heads)


def _check_codec(codec: CodecConfig, tokenizer: Section) -> None:
    """Refuse sizes of the codec that do not go together."""
    if codec.n_heads * codec.head_dim != codec.dim:
        product = f"({codec.n_heads}) * head_dim ({codec.head_dim})"
        raise tokenizer.fault("n_heads", f"{product} must be dim ({codec.dim})")
    if codec.n_heads & (codec.n_heads - 1):
        raise tokenizer.fault("n_heads", f"is {codec.n_heads}; ALiBi needs a power of two here")
    shortest = codec.window >> sum(stride > 1 for stride in codec.encoder_strides)
    if codec.halve_window and shortest < 2 and shortest != codec.window:
        fault = f"({codec.window}) is halved to {shortest} by encoder_convs_strides_str; servers take no less than 2"
        raise tokenizer.fault("attn_sliding_window_size", fault)
    rate = codec.sampling_rate / codec.frame_size  # in floats, as servers compute it and test it
    if codec.sampling_rate % rate:
        fault = f"({codec.sampling_rate}) over {codec.frame_size} samples gives no frame rate that servers take"
        raise tokenizer.fault("sampling_rate", fault)
    key = "decoder_convs_strides_str"
    if codec.decoder_strides[0] != 1:
        raise tokenizer.fault(key, "must begin with 1: the decoder's first convolution keeps the rate")
    if prod(codec.decoder_strides) != prod(codec.encoder_strides):
        fault = f"multiplies to {prod(codec.decoder_strides)}, the encoder's to {prod(codec.encoder_strides)}"
        raise tokenizer.fault(key, f"{fault}: they must agree")
    for side in ("encoder", "decoder"):
        key = f"{side}_convs_kernels_str"
        lengths, kernels, strides = (getattr(codec, f"{side}_{part}") for part in ("lengths", "kernels", "strides"))
        if not len(lengths) == len(kernels) == len(strides):
            raise tokenizer.fault(key, f"and the {side}'s lengths and strides differ in number")
        # The first one of the decoder and the last one of the encoder are built whatever they are.
        inner = list(zip(kernels, strides))[:-1] if side == "encoder" else list(zip(kernels, strides))[1:]
        if (1, 1) in inner:
            fault = f"{kernels}: servers leave out a convolution of kernel and stride 1"
            raise tokenizer.fault(key, f"{fault}, and count the blocks otherwise; give it 3")
        if codec.halve_window and not set(strides) <= {1, 2}:
            fault = f"{strides}: servers halve the attention window for strides of 2 alone"
            raise tokenizer.fault(f"{side}_convs_strides_str", f"{fault}; take 1 and 2, or do not halve it")
        if any(k % s for k, s in zip(kernels, strides)):
            raise tokenizer.fault(key, f"{kernels}: each kernel must be a multiple of its stride {strides}")
