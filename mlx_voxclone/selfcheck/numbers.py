"""Checks of arithmetic: kernels, precisions, quantised layers, compiled steps."""

import time
import warnings
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.adapters.lora import quantise_backbone
from mlx_voxclone.audio.spectral import choice, plain
from mlx_voxclone.doctor.rehearsal import Length, encoder_task, speaker_task
from mlx_voxclone.losses.semantic import semantic_cross_entropy
from mlx_voxclone.losses.stft import STFT_SIZES
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.selfcheck.outcome import Findings, Outcome, not_here
from mlx_voxclone.selfcheck.place import Place, on_gpu, relative
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.train.loop.gradients import Gradients, Masters
from mlx_voxclone.train.loop.loader import Group, Loader
from mlx_voxclone.train.loop.optimizers.adamw import AdamW
from mlx_voxclone.train.loop.task import Task
from mlx_voxclone.train.saved.rng import get_rng, set_rng
from mlx_voxclone.train.speaker.preservation import Kept, KeptPairs

SAMPLES = 9600  # of the sounds that spectra are compared on
FLOAT32 = 2e-3  # GPUs that multiply float32 in reduced precision are off by 5e-4
BF16 = {"hidden states": 0.03, "semantic logits": 0.05, "flow velocity": 0.05, "decoded sound": 0.05}
QUANTISED = {8: 0.03, 4: 0.3}
COMPILED = 1e-3
_COUNT = 24  # frames that a miniature is given


def spectra(place: Place) -> Outcome:
    """Plain operations against numpy's transforms in float64, all window sizes of the codec."""
    found, rng = Findings(), np.random.default_rng(0)
    x = rng.standard_normal((2, SAMPLES)).astype(np.float32)
    for size in STFT_SIZES:
        window = np.hanning(size + 1)[:-1]
        padded = np.pad(x.astype(np.float64), ((0, 0), (size // 2, size // 2)), mode="reflect")
        starts = range(0, padded.shape[1] - size + 1, size // 4)
        want = np.abs(np.fft.rfft(np.stack([padded[:, k : k + size] for k in starts], axis=1) * window))
        got = plain.magnitude(mx.array(x), size, size // 4, plain.hann_window(size))
        error = float(np.abs(np.array(got) - want).max() / np.sqrt(np.square(want).mean()))
        found.at_most(f"error at {size}", error, 1e-3)
    return found.outcome(f"largest error {max(found.figures.values()):.1e} of the RMS")


def kernels(place: Place) -> Outcome:
    """The Metal kernels against MLX's operations, value and gradient, and which of them are faster here."""
    if not choice.metal_available():
        return not_here("no Apple GPU: spectra run on MLX's own operations")
    found = Findings()
    problem = choice.self_test([*choice.SELF_TEST_SIZES, *((2, SAMPLES, size, size // 4) for size in STFT_SIZES)])
    found.must(problem is None, problem or "")
    faster = {str(size): choice.kernels_win(size) for size in (*STFT_SIZES, 1024)}
    found.note("kernels are faster", faster)
    return found.outcome(f"equal; faster than MLX's transforms at {sum(faster.values())} of {len(faster)} sizes")


def precision(place: Place) -> Outcome:
    """BF16 against float32 in the language model, the flow head and the codec; on a GPU, its float32 against the CPU's.

    The model is the trained miniature: random weights would forgive what trained ones do not.
    """
    found, wanted = Findings(), _answers(place, mx.float32)
    for name, value in _answers(place, mx.bfloat16).items():
        found.at_most(f"BF16, {name}", relative(value, wanted[name]), BF16[name])
    if on_gpu():
        mx.set_default_device(mx.cpu)
        for name, value in _answers(place, mx.float32).items():
            found.at_most(f"float32 against the CPU's, {name}", relative(wanted[name], value), FLOAT32)
    return found.outcome(f"largest difference {max(found.figures.values()):.1e} of the RMS")


def _answers(place: Place, dtype: mx.Dtype) -> dict[str, mx.array]:
    """What the parts of the miniature give for one prompt and some codes."""
    speaker = Speaker.load(place.speaking(), dtype=dtype)
    model = speaker.model
    model.audio_tokenizer.set_dtype(dtype)
    hidden = model.hidden_states(_prompt(speaker).astype(dtype))
    rng = np.random.default_rng(0)
    noise = mx.array(rng.standard_normal((hidden.shape[1], 36)).astype(np.float32)).astype(dtype)
    half = mx.full((hidden.shape[1],), 0.5).astype(dtype)
    head, last = model.acoustic_transformer, hidden[0]
    found = {
        "hidden states": hidden,
        "semantic logits": head.semantic_logits(last)[:, 2:100],
        "flow velocity": head.velocity(noise, half, last),
        "decoded sound": model.audio_tokenizer.decode(mx.array(_codes(model))[None]),
    }
    mx.eval(found)
    return found


def _prompt(speaker: Speaker) -> mx.array:
    rows = speaker.voice_rows(speaker.voices[0])
    return speaker.model.embed_prompt(speaker.prompt("Papa mino lesu.", rows), rows)


def _codes(model: Voxtral, count: int = _COUNT) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([rng.integers(0, size, count) for size in model.config.codec.codebook_sizes]).astype(np.int32)


def quantised(place: Place) -> Outcome:
    """Quantised products against the same weights dequantised, and the miniature's hidden states against its own."""
    found, dtype = Findings(), mx.bfloat16 if on_gpu() else mx.float32
    mx.random.seed(0)
    linear, x = nn.Linear(256, 192, bias=False), mx.random.normal((40, 256)).astype(dtype)
    linear.set_dtype(dtype)
    for bits in QUANTISED:
        layer = nn.QuantizedLinear.from_linear(linear, 64, bits)
        weight = mx.dequantize(layer.weight, layer.scales, layer.biases, 64, bits).astype(mx.float32)
        want = x.astype(mx.float32) @ weight.T
        found.at_most(f"product of {bits} bits", relative(layer(x), want), 0.01)
    speaker = Speaker.load(place.speaking(), dtype=dtype)
    prompt = _prompt(speaker).astype(dtype)
    want = speaker.model.hidden_states(prompt)
    mx.eval(want)
    for bits, limit in QUANTISED.items():
        model = Speaker.load(place.speaking(), dtype=dtype).model
        quantise_backbone(model, bits)
        found.at_most(f"hidden states of {bits} bits", relative(model.hidden_states(prompt), want), limit)
    return found.outcome(", ".join(f"{name} {value:.1e}" for name, value in found.figures.items() if "hidden" in name))


def alternatives(place: Place) -> Outcome:
    """What MLX offers in the place of what is used, timed side by side: figures without a limit, to decide by."""
    if not on_gpu():
        return not_here("on the CPU MLX has no fused kernels for them")
    found, rng = Findings(), np.random.default_rng(0)
    logits = mx.array(rng.standard_normal((400, 8320)).astype(np.float32))
    targets, rows = mx.array(rng.integers(1, 8194, 400).astype(np.int32)), mx.arange(8320)
    outside = mx.where((rows >= 1) & (rows < 8194), 0.0, -mx.inf)
    queries = mx.array(rng.standard_normal((1, 32, 700, 128)).astype(np.float32)).astype(mx.bfloat16)

    def attention(x: mx.array, fused: bool) -> mx.array:
        return mx.fast.scaled_dot_product_attention(x, x, x, scale=0.1, mask="causal", force_fused=fused).sum()

    pairs = {
        "fused cross-entropy": (
            lambda: mx.value_and_grad(lambda x: semantic_cross_entropy(x, targets, 8194).sum())(logits),
            lambda: mx.value_and_grad(lambda x: mx.fast.cross_entropy(x + outside, targets).sum())(logits),
        ),
        "forced fused attention": tuple(
            lambda fused=fused: mx.value_and_grad(attention)(queries, fused) for fused in (False, True)
        ),
    }
    for name, (used, offered) in pairs.items():
        try:
            times, answers = zip(*map(_timed, (offered, used)))  # what may be refused first
        except ValueError as error:
            found.note(name, f"refused: {error}")
            continue
        found.note(f"{name}, times as fast", times[1] / times[0])
        found.note(f"{name}, difference of gradients", relative(answers[0][1], answers[1][1]))
    speeds = [f"{name} {value:.2f}" for name, value in found.figures.items() if name.endswith("fast")]
    return found.outcome(", ".join(speeds) or "none runs here")


def _timed(work: Callable[[], tuple]) -> tuple[float, tuple]:
    """Least seconds of some runs after the first, and what it gives."""
    answer, seconds = work(), []
    mx.eval(answer)
    for _ in range(5):
        began = time.perf_counter()
        mx.eval(work())
        seconds.append(time.perf_counter() - began)
    return min(seconds), answer


# ---- compiled steps --------------------------------------------------------------------------------------------------


def compiled(place: Place, compiler: Callable | None = None) -> Outcome:
    """Training steps as they are compiled on a GPU against the same steps as they are: losses, gradients, and what is
    drawn at random.

    Args:
        compiler: in the place of `mx.compile`, for the tests.
    """
    if compiler is None and not on_gpu():
        return not_here("not on the CPU: steps are compiled on a GPU alone")
    found = Findings()
    for name, task in _tasks().items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _compare(name, task, compiler, found)
        for warning in caught:
            found.must("compiled" not in str(warning.message), str(warning.message))
    _compare_adamw(compiler, found)
    return found.outcome(f"largest difference {max(found.figures.values()):.1e}")


def _tasks() -> dict[str, Task]:
    """One of each kind of step, with dropout and unequal lengths, on the miniature's sizes."""
    params = params_json(PRESETS["tiny"], {})
    encoder = EncoderSection(
        crop_seconds=0.48,
        stft_sizes=[512, 256],
        quantisation_noise=True,
        discriminators={"enabled": True, "sizes": [126, 76], "channels": 4, "warmup_steps": 0},
    )
    speaker = SpeakerSection(reference_seconds=[0.4, 0.8], max_seconds=2.0, lora={"rank": 4, "dropout": 0.1})
    lengths = [Length(5, 8, 7), Length(9, 6, 12), Length(4, 9, 5), Length(7, 7, 9)]
    keeping = speaker.model_copy(update={"preserve": speaker.preserve.model_copy(update={"share": 0.5})})
    return {
        "encoder": encoder_task(params, encoder, mx.float32, [0.4, 1.0, 0.3, 0.9]),
        "speaker": speaker_task(params, speaker, mx.float32, lengths, drawn=True),
        "language": speaker_task(
            params, keeping, mx.float32, lengths, drawn=True, kept=_kept_pairs(params), name="language"
        ),
    }


def _kept_pairs(params: dict) -> KeptPairs:
    rng = np.random.default_rng(0)
    sizes = VoxtralConfig.from_dict(params).codec.codebook_sizes
    pairs = [
        Kept(
            f"pair {k}",
            f"text {k}",
            np.stack([rng.integers(0, size, 6 + k) for size in sizes]).astype(np.int32),
            rng.standard_normal((7, params["dim"])).astype(np.float32),
        )
        for k in range(3)
    ]
    return KeptPairs(pairs[:2], pairs[2:], "made")


def _compare(name: str, task: Task, compiler: Callable | None, found: Findings) -> None:
    with Loader(task, batch_size=2, accumulate=1, seed=0, position=(0, 0), step=0) as loader:
        groups = [loader.next() for _ in range(2)]
    set_rng((1, 2))
    gradients = Gradients(task, Masters(task, "float32"), compiler=compiler)
    ours = _steps(gradients, groups)
    found.must(gradients.compiled, f"{name}: it ran uncompiled")
    set_rng((1, 2))
    # The same batches, made wider as for compiling: another width would draw other dropout.
    theirs = _steps(Gradients(task, Masters(task, "float32"), compiler=lambda function, **_: function), groups)
    found.must(ours[-1] == theirs[-1], f"{name}: random numbers go on differently")
    for kind, place in (("loss", 0), ("gradient", 1)):
        worst = max(_difference(a[place], b[place]) for a, b in zip(ours[:-1], theirs[:-1]))
        found.at_most(f"{name}, {kind}", worst, COMPILED)
    if name != "encoder":  # whose random numbers are drawn with its items
        again = _difference(
            ours[0][1], ours[-2][1]
        )  # of the gradients: B starts at 0, and with it what dropout changes
        found.must(again > 0, f"{name}: a second step on the same batch drew the same dropout")


def _compare_adamw(compiler: Callable | None, found: Findings) -> None:
    """Three steps of the optimiser, compiled against plain."""
    ends = []
    for each in (compiler, lambda function: function):
        values = {"a": mx.random.normal((40, 30), key=mx.random.key(0)), "b": mx.ones((7,))}
        optimizer = AdamW(values, (0.9, 0.99), 1e-8, 0.1, compiler=each)
        for step in range(3):
            gradients = {name: mx.sin(3 * array + step) for name, array in values.items()}
            values = optimizer.updated(gradients, values, 0.01, scale=0.5)
        ends.append(np.concatenate([np.array(array).reshape(-1) for array in values.values()]))
    found.at_most("adamw", _difference(*ends), COMPILED)


def _steps(gradients: Gradients, groups: list[Group]) -> list:
    """(losses, gradient) of each group and of the first one again, then the state of the generator."""
    found: list = []
    for step, group in enumerate([*groups, groups[0]]):
        gradient, sums, _ = gradients(group, step)
        found.append((np.array(list(sums.values())), np.concatenate([np.array(g).ravel() for g in gradient.values()])))
    return [*found, get_rng()]


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))
