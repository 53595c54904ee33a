"""mlx-audio's codec: decoding.

PYTHON mlx_audio_codec.py PARAMS.json GIVEN.npz

GIVEN holds `codes` [37, T], 0-based, and may hold weights as `weight.NAME`; what is not given is random. Speaks with
`PeerProcess`. The first line it says also has `value`: the RMS of the sound. Memory is MLX's at the worst moment.
"""

import dataclasses
import importlib.metadata
import json
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_audio.tts.models.voxtral_tts.audio_tokenizer import AudioTokenizerArgs, VoxtralTTSAudioTokenizer

N_SPECIAL = 2  # its codes are those of the language model


def build(params: Path, given: dict[str, np.ndarray]) -> VoxtralTTSAudioTokenizer:
    """Their tokenizer in float32."""
    content = json.loads(params.read_text(encoding="utf-8"))["multimodal"]["audio_tokenizer_args"]
    known = {field.name for field in dataclasses.fields(AudioTokenizerArgs)}
    tokenizer = VoxtralTTSAudioTokenizer(AudioTokenizerArgs(**{k: v for k, v in content.items() if k in known}))
    mx.random.seed(0)
    weights = {  # its convolutions begin as zeros, whose weight norm is no number
        name: 0.02 * mx.random.normal(array.shape) if name.endswith("original1") else array
        for name, array in tree_flatten(tokenizer.parameters())
    }
    own = {name.removeprefix("weight."): array for name, array in given.items() if name.startswith("weight.")}
    weights |= {name: mx.array(array) for name, array in own.items() if name in weights}
    tokenizer.update(tree_unflatten(list(weights.items())))
    mx.eval(tokenizer.parameters())
    return tokenizer


def say(answer: dict) -> None:
    print(json.dumps(answer), flush=True)


def main(params: str, given: str) -> None:
    arrays = dict(np.load(given))
    tokenizer = build(Path(params), arrays)
    frames = mx.array(arrays["codes"].T + N_SPECIAL)[None]
    sound = tokenizer.decode(frames)
    value = mx.sqrt(mx.square(sound).mean()).item()
    say({"name": f"mlx-audio {importlib.metadata.version('mlx-audio')}", "value": value})
    for _ in sys.stdin:
        mx.reset_peak_memory()
        began, began_cpu = time.perf_counter(), time.process_time()
        mx.eval(tokenizer.decode(frames))
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        peak = mx.get_peak_memory()
        say({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak": peak, "memory": "MLX's memory"})


if __name__ == "__main__":
    main(*sys.argv[1:])
