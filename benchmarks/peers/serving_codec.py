"""The codec of the serving code (vLLM-Omni) on PyTorch: a training step of its encoder, or decoding.

PYTHON serving_codec.py PARAMS.json GIVEN.npz THREADS encoder-step|decode

GIVEN holds `waveform` [samples] and `mel_filters` [bands, bins] for a step, `codes` [37, T] for decoding, and may hold
weights as `weight.NAME`; what is not given is random. A step is that of task `encoder`: encode, quantise straight
through, decode, L1 + multi-resolution STFT + log-mel + commitment, gradient of the encoder alone, clipping, AdamW.

Speaks with `PeerProcess`. The first line it says also has `value`: the loss before any step, or the RMS of the sound.
Memory is what the process holds at its worst moment beyond what it holds after its imports.
"""

import json
import math
import resource
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from serving_modules import PARSER, TOKENIZER_MODEL, import_modules

STFT_SIZES, COMMITMENT, FLOOR = (2048, 1024, 512, 256), 0.1, 1e-5
ENCODER = ("input_proj.", "encoder_blocks.")


def build(params: Path, given: dict[str, np.ndarray]) -> torch.nn.Module:
    """Their tokenizer in float32, the encoder alone with gradients."""
    content = json.loads(params.read_text(encoding="utf-8"))
    content["dim"] = 1  # of the language model's table, which nothing here looks up
    _, hf_config = sys.modules[PARSER]._parse_voxtral_tts(content)
    vllm_config = types.SimpleNamespace(model_config=types.SimpleNamespace(hf_config=hf_config))
    torch.manual_seed(0)
    tokenizer = sys.modules[TOKENIZER_MODEL].VoxtralTTSAudioTokenizer(vllm_config=vllm_config)
    codebook = tokenizer.quantizer.semantic_codebook
    codebook.embedding_sum = torch.randn_like(codebook.embedding_sum)
    for name, array in given.items():
        if name.startswith("weight."):
            tokenizer.load_weight((name.removeprefix("weight."), torch.from_numpy(array)))
    for name, parameter in tokenizer.named_parameters():
        parameter.requires_grad_(name.startswith(ENCODER))
    return tokenizer


# --- a step -----------------------------------------------------------------------------------------------------------


def magnitude(sound: torch.Tensor, size: int, window: torch.Tensor) -> torch.Tensor:
    """`[1, samples]` -> `[1, bins, frames]`."""
    return torch.stft(sound, size, size // 4, window=window, pad_mode="reflect", return_complex=True).abs()


def loss(tokenizer: torch.nn.Module, waveform: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """The weighted sum of the terms of task `encoder` for `waveform [1, samples]`."""
    quantizer, patch = tokenizer.quantizer, tokenizer.patch_size
    whole = torch.nn.functional.pad(waveform, (0, -waveform.shape[-1] % patch))
    latents = tokenizer._forward_encoder(whole[:, None])
    with torch.no_grad():
        quantised = quantizer.decode(quantizer.encode(latents))
    z, acoustic = latents.split([quantizer.semantic_dim, quantizer.acoustic_dim], dim=1)
    rows = quantised[:, : quantizer.semantic_dim]
    continuous = torch.cat([z, acoustic.tanh()], dim=1)
    sound = tokenizer._forward_decoder(continuous + (quantised - continuous).detach())[:, 0, : waveform.shape[-1]]
    total = (sound - waveform).abs().mean() + COMMITMENT * (z - rows).square().mean()
    for size in STFT_SIZES:
        window = torch.hann_window(size) / math.sqrt(3 * size / 8)
        error = (magnitude(sound, size, window) - magnitude(waveform, size, window)).abs().mean()
        total = total + error / len(STFT_SIZES)
    size = 2 * (filters.shape[1] - 1)
    window = torch.hann_window(size)
    mels = [(filters @ magnitude(x, size, window)).clamp(min=FLOOR).log() for x in (sound, waveform)]
    return total + (mels[0] - mels[1]).abs().mean()


def encoder_step(tokenizer: torch.nn.Module, given: dict[str, np.ndarray]) -> tuple[Callable[[], None], float]:
    waveform, filters = torch.from_numpy(given["waveform"])[None], torch.from_numpy(given["mel_filters"])
    trained = [parameter for parameter in tokenizer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01)

    def step() -> None:
        loss(tokenizer, waveform, filters).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with torch.no_grad():
        return step, loss(tokenizer, waveform, filters).item()


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(tokenizer: torch.nn.Module, given: dict[str, np.ndarray]) -> tuple[Callable[[], None], float]:
    codes = torch.from_numpy(given["codes"]).long()[None]

    @torch.inference_mode()
    def work() -> torch.Tensor:
        return tokenizer.decode(codes)

    return work, work().square().mean().sqrt().item()


WORKS = {"encoder-step": encoder_step, "decode": decode}


def resident() -> int:
    """Bytes; on a Mac of the worst moment so far, as there is no other figure."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_resident()


def peak_resident() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def say(answer: dict) -> None:
    print(json.dumps(answer), flush=True)


def main(params: str, given: str, threads: str, work: str) -> None:
    torch.set_num_threads(int(threads))
    import_modules()
    before = resident()
    arrays = dict(np.load(given))
    run, value = WORKS[work](build(Path(params), arrays), arrays)
    run()  # the first one is slower
    say({"name": f"vLLM-Omni's codec, PyTorch {torch.__version__}", "value": value})
    for _ in sys.stdin:
        began, began_cpu = time.perf_counter(), time.process_time()
        run()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        peak = peak_resident() - before
        say({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak": peak, "memory": "resident, imports left out"})


if __name__ == "__main__":
    main(*sys.argv[1:])
