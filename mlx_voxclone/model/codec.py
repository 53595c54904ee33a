"""The audio tokenizer: patch, project, stages, quantise; and back.

24 kHz mono in, 12.5 frames of 37 codes per second out (release sizes). `[B, T, C]` throughout. The decoder is released;
the encoder is what this project trains. (Source: vLLM-Omni 0.30, `voxtral_tts_audio_tokenizer.py`; arXiv 2603.25551.)
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import ceil, prod

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.model.blocks.attention import CodecAttention
from mlx_voxclone.model.blocks.conv import CausalConv1d, CausalConvTranspose1d
from mlx_voxclone.model.blocks.layers import FeedForward
from mlx_voxclone.model.blocks.products import linear, swiglu
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.model.quantizer import Quantizer


class CodecFeedForward(FeedForward):
    """The same with gradients written by hand; never quantised."""

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., dim]` -> `[..., dim]`."""
        hidden = swiglu(linear(x, self.w1.weight), linear(x, self.w3.weight))
        return linear(hidden, self.w2.weight)


class CodecBlock(nn.Module):
    """Pre-norm attention and SwiGLU, each scaled per channel (LayerScale) before it is added."""

    def __init__(self, config: CodecConfig, window: int):
        super().__init__()
        self.attention = CodecAttention(config, window)
        self.feed_forward = CodecFeedForward(config.dim, config.hidden_dim)
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention_scale = mx.full((config.dim,), config.layer_scale_init)
        self.ffn_scale = mx.full((config.dim,), config.layer_scale_init)

    def __call__(self, x: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
        """`[B, T, dim]` -> `[B, T, dim]`, in x's dtype; what is added to x is computed in `dtype` (None: x's too)."""
        dtype = dtype or x.dtype
        x = x + self.attention_scale * self.attention(self.attention_norm(x).astype(dtype))
        return x + self.ffn_scale * self.feed_forward(self.ffn_norm(x).astype(dtype))


class CodecTransformer(nn.Module):
    """A stage's transformer layers, all with one window.

    In BF16 the sum that they add to stays float32, as under the server's autocast: of what a layer scale of 0.01
    leaves, BF16 would keep a bit or two.
    """

    def __init__(self, config: CodecConfig, n_layers: int, window: int):
        super().__init__()
        self.layers = [CodecBlock(config, window) for _ in range(n_layers)]

    def __call__(self, x: mx.array) -> mx.array:
        dtype, x = x.dtype, x.astype(mx.float32)
        for layer in self.layers:
            x = layer(x, dtype)
        return x.astype(dtype)


def encoder_windows(config: CodecConfig) -> list[int]:
    """Attention window of each encoder stage: halved after every conv that shortens the sequence."""
    return _halved_windows(config)[:-1]


def decoder_windows(config: CodecConfig) -> list[int]:
    """Attention window of each decoder stage: doubled by every conv that lengthens.

    The first is the one that would follow the encoder's last conv, as servers have it.
    """
    windows, window = [], _halved_windows(config)[-1]
    for stride in config.decoder_strides:
        window = window * 2 if config.halve_window and stride > 1 else window
        windows.append(window)
    return windows


def _halved_windows(config: CodecConfig) -> list[int]:
    """Of each encoder stage, and the one that a further stage would have."""
    windows = [config.window]
    for stride in config.encoder_strides:
        windows.append(windows[-1] // 2 if config.halve_window and stride > 1 else windows[-1])
    return windows


def left_context(config: CodecConfig) -> int:
    """Latent frames before a frame on which its latents, or its audio, depend: 21 in the release.

    Each stage adds what its layers' windows and its convolution's kernel reach back, at the rate where they stand.
    """
    rate = prod(config.encoder_strides)  # of the patches, per latent frame
    encoder = decoder = Fraction(config.patch_kernel - 1, rate)
    layers = zip(config.encoder_lengths, config.encoder_kernels, config.encoder_strides, encoder_windows(config))
    for n_layers, kernel, stride, window in layers:
        encoder += Fraction(n_layers * window + kernel - stride, rate)
        rate //= stride
    layers = zip(config.decoder_lengths, config.decoder_kernels, config.decoder_strides, decoder_windows(config))
    for i, (n_layers, kernel, stride, window) in enumerate(layers):
        decoder += Fraction(kernel // stride - 1 if i else kernel - 1, rate)
        rate *= stride
        decoder += Fraction(n_layers * window, rate)
    return ceil(max(encoder, decoder))


class Codec(nn.Module):
    """`audio_tokenizer`: the decoder and quantiser of the release, and (`encoder=True`) the encoder it lacks."""

    def __init__(self, config: CodecConfig, encoder: bool):
        super().__init__()
        self._config = config
        self.quantizer = Quantizer(config)
        self.decoder_blocks = self._build_decoder(config)
        self.output_proj = CausalConv1d(config.dim, config.patch_size, config.patch_kernel, 1, "reflect")
        if encoder:
            self.input_proj = CausalConv1d(config.patch_size, config.dim, config.patch_kernel, 1, "reflect")
            self.encoder_blocks = self._build_encoder(config)

    @staticmethod
    def _build_encoder(config: CodecConfig) -> list[nn.Module]:
        blocks: list[nn.Module] = []
        stages = zip(config.encoder_lengths, config.encoder_kernels, config.encoder_strides, encoder_windows(config))
        last = len(config.encoder_lengths) - 1
        for i, (n_layers, kernel, stride, window) in enumerate(stages):
            blocks.append(CodecTransformer(config, n_layers, window))
            outputs = config.latent_dim if i == last else config.dim
            blocks.append(CausalConv1d(config.dim, outputs, kernel, stride, "replicate"))
        return blocks

    @staticmethod
    def _build_decoder(config: CodecConfig) -> list[nn.Module]:
        blocks: list[nn.Module] = []
        stages = zip(config.decoder_lengths, config.decoder_kernels, config.decoder_strides, decoder_windows(config))
        for i, (n_layers, kernel, stride, window) in enumerate(stages):
            if i == 0:
                blocks.append(CausalConv1d(config.latent_dim, config.dim, kernel, stride, "replicate"))
            else:
                blocks.append(CausalConvTranspose1d(config.dim, config.dim, kernel, stride))
            blocks.append(CodecTransformer(config, n_layers, window))
        return blocks

    @property
    def config(self) -> CodecConfig:
        return self._config

    @property
    def left_context(self) -> int:
        """Latent frames of exact left context, of encoder and decoder alike."""
        return left_context(self._config)

    @property
    def has_encoder(self) -> bool:
        return "encoder_blocks" in self

    # --- encoding -------------------------------------------------------------------------------------------------

    def encode_latents(self, waveform: mx.array, lengths: Sequence[int] | mx.array | None = None) -> mx.array:
        """Encode waveforms into raw latents (before tanh and quantisation).

        Args:
            waveform: `[B, samples]`, 24 kHz.
            lengths: valid samples of each item (at least 1); what follows them is ignored, and each item gets the right
                padding it would have had alone. None: all of it is valid. The values of an array `[B]` are not looked
                at: a compiled function so serves any.

        Returns:
            `[B, ceil(samples / 1920), latent_dim]`; with `lengths`, frames after `ceil(length / 1920)` mean nothing.

        Raises:
            ValueError: the codec was built without an encoder, or a length is not in 1..samples.
        """
        if not self.has_encoder:
            raise ValueError("this codec has no encoder: the release lacks it, train one or load its weights")
        samples, patch = waveform.shape[1], self.config.patch_size
        known = lengths is not None and not isinstance(lengths, mx.array)
        if samples < 1 or (known and not all(1 <= n <= samples for n in lengths)):
            raise ValueError(f"lengths must be within 1..{samples} samples, got {lengths}")
        if known:
            lengths = None if all(n == samples for n in lengths) else mx.array(lengths)
        if lengths is not None:
            waveform = mx.where(mx.arange(samples)[None, :] < lengths[:, None], waveform, 0.0)
            lengths = (lengths + patch - 1) // patch
        waveform = mx.pad(waveform, [(0, 0), (0, -samples % patch)])  # [B, N * 240]
        x = self.input_proj(waveform.reshape(waveform.shape[0], -1, patch), lengths)  # [B, N, 240] -> [B, N, dim]
        for block in self.encoder_blocks:
            if isinstance(block, CausalConv1d):
                x = block(x, lengths)  # [B, N, dim] -> [B, ceil(N / stride), dim], the last one: latent_dim
                lengths = None if lengths is None else block.output_lengths(lengths)
            else:
                x = block(x)
        return x

    def encode_audio(
        self,
        samples: np.ndarray | mx.array,
        chunk_frames: int = 375,
        on_frames: Callable[[int], None] | None = None,
    ) -> mx.array:
        """Encode one waveform of any length in chunks with exact left context: `[S] -> [ceil(S / 1920), latent_dim]`.

        Memory is bounded by `chunk_frames` (375 = 30 s), the result equals encoding the whole at once. `on_frames`
        is called with the number of frames of each chunk that is done.
        """
        samples, frame = mx.array(samples), self.config.frame_size
        total = self.config.n_frames(samples.shape[0])
        latents = []
        for start in range(0, total, chunk_frames):
            first = max(0, start - self.left_context)
            piece = samples[first * frame : (start + chunk_frames) * frame]
            latents.append(self.encode_latents(piece[None])[0, start - first :])  # [frames of the chunk, latent_dim]
            mx.eval(latents[-1])
            if on_frames is not None:
                on_frames(latents[-1].shape[0])
        return mx.concatenate(latents, axis=0)

    def quantize(self, latents: mx.array) -> mx.array:
        """Raw latents `[B, T, D]` to 0-based codes `[B, 37, T]` int32."""
        return self.quantizer.encode(latents)

    def audio_codes(self, samples: np.ndarray | mx.array) -> np.ndarray:
        """0-based codes of one waveform of any length, encoded by `encode_audio`: `[S] -> [37, ceil(S / 1920)]` int32.

        Raises:
            FloatingPointError: the encoder's numbers are not finite, so that there are no codes for them.
        """
        latents = self.encode_audio(samples)
        if not mx.isfinite(latents).all().item():
            raise FloatingPointError("the encoder's numbers are not finite")
        return np.array(self.quantize(latents[None])[0])  # [T, latent_dim] -> [37, T]

    # --- decoding -------------------------------------------------------------------------------------------------

    def fold_decoder(self) -> None:
        """Fold the weight norm of the decoder's convolutions once; a training that moves them makes them anew."""
        for block in (*self.decoder_blocks, self.output_proj):
            if not isinstance(block, CodecTransformer):
                block.fold()

    def decode_latents(self, quantised: mx.array) -> mx.array:
        """Quantised latents `[B, T, D]` (acoustic values in [-1, 1]) to waveforms `[B, T * 1920]`, not clipped."""
        x = quantised
        for block in self.decoder_blocks:
            x = block(x)  # [B, T, latent_dim] -> [B, T * strides so far, dim]
        return self.output_proj(x).reshape(x.shape[0], -1)  # [B, N, 240] -> [B, N * 240]

    def decode(self, codes: mx.array) -> mx.array:
        """0-based codes `[B, 37, T]` to waveforms `[B, T * 1920]`, in the decoder's dtype."""
        dtype = self.output_proj.conv.parametrizations.weight.original1.dtype
        return self.decode_latents(self.quantizer.decode(codes).astype(dtype))

    def decode_audio(self, codes: np.ndarray | mx.array, chunk_frames: int = 375) -> np.ndarray:
        """Decode one code sequence `[37, T]` of any length in chunks: float32 `[T * 1920]`, equal to the whole at once.

        Raises:
            ValueError: a code outside its codebook (an embedding look-up would return garbage without a word).
        """
        codes = np.asarray(codes)
        self.check_codes(codes)
        audio, end = np.empty(codes.shape[1] * self.config.frame_size, np.float32), 0
        for piece in self.decode_pieces(codes, chunk_frames):
            audio[end : end + len(piece)] = piece
            end += len(piece)
        return audio

    def decode_pieces(
        self,
        codes: np.ndarray | mx.array,
        chunk_frames: int = 375,
        on_frames: Callable[[int], None] | None = None,
    ) -> Iterator[np.ndarray]:
        """What `decode_audio` puts together, one chunk after the other, so that memory does not grow with T.

        `on_frames` is called with the number of frames of each chunk that is done.

        Raises:
            ValueError: as `decode_audio`, when the first chunk is requested.
        """
        codes = np.asarray(codes)
        self.check_codes(codes)
        self.fold_decoder()
        return self._decoded(codes, chunk_frames, on_frames)

    def _decoded(
        self, codes: np.ndarray, chunk_frames: int, on_frames: Callable[[int], None] | None
    ) -> Iterator[np.ndarray]:
        frame = self.config.frame_size
        for start in range(0, codes.shape[1], chunk_frames):
            first = max(0, start - self.left_context)
            part = mx.array(codes[None, :, first : start + chunk_frames])  # [1, 37, T]
            audio = self.decode(part)[0, (start - first) * frame :]  # [frames of the chunk * 1920]
            yield np.array(audio.astype(mx.float32))
            if on_frames is not None:
                on_frames(audio.shape[0] // frame)

    def check_codes(self, codes: np.ndarray) -> None:
        """Raise ValueError unless `codes` is integer `[37, T]` with every value inside its codebook."""
        if codes.ndim != 2 or codes.shape[0] != self.config.n_codebooks or codes.dtype.kind not in "iu":
            raise ValueError(f"codes must be integers [{self.config.n_codebooks}, T], got {codes.dtype} {codes.shape}")
        sizes = np.array(self.config.codebook_sizes)[:, None]
        wrong = (codes < 0) | (codes >= sizes)
        if wrong.any():
            book, frame = np.argwhere(wrong)[0]
            value, last = codes[book, frame], sizes[book, 0] - 1
            raise ValueError(f"code {value} at codebook {book}, frame {frame} is outside 0..{last}")
