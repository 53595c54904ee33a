"""Direct optimisation of a clip's latents through the decoder: properties of the search, and its mistakes."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss, waveform_l1
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.settings.encoder import EncoderLosses, EncoderSection
from mlx_voxclone.train.encoder import optimise
from mlx_voxclone.train.encoder.optimise import TOTAL, optimise_codes, reconstruction_loss

FRAME = 1920
QUICK = EncoderSection(stft_sizes=[256], losses=EncoderLosses(sound=1.0))


@pytest.fixture(scope="module", autouse=True)
def _few_trials():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimise, "_TRIALS", 8)
        yield


def codec_of(directory):
    return load_model(Release(directory), parts=["codec"]).audio_tokenizer


@pytest.fixture(scope="module")
def codec(miniature):
    """Without an encoder, as released."""
    return codec_of(miniature)


@pytest.fixture(scope="module")
def semantic_codec(miniature):
    """The miniature with semantic codes that sound: in its own, the acoustic ones alone make nearly all of it."""
    codec = codec_of(miniature)
    weight, n = codec.decoder_blocks[0].conv.parametrizations.weight, codec.config.semantic_dim
    v = np.array(weight.original1)
    v[:, :n, -1] += np.random.default_rng(2).standard_normal(v[:, :n, -1].shape) / np.sqrt(n)
    weight.original1, weight.original0 = mx.array(v), mx.array(np.sqrt(np.square(v).sum(axis=(1, 2), keepdims=True)))
    return codec


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """7.5 frames of a synthetic voice."""
    return synthesise("papa mino lesu, tara koni.", SyntheticSpeaker.sample(0), 0)[4_800 : 4_800 + 15 * FRAME // 2]


@pytest.fixture(scope="module")
def found(codec, wave):
    return optimise_codes(codec, wave, steps=40, losses=QUICK)


def random_latents(codec, frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, codec.config.latent_dim)).astype(np.float32)


def codes_of(codec, latents) -> np.ndarray:
    return np.array(codec.quantize(mx.array(latents)[None])[0])


# ---- what comes out ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shapes_types_and_the_loss_falls(codec, wave, found):
    assert (found.codes.shape, found.codes.dtype) == ((codec.config.n_codebooks, 8), np.int32)
    assert (found.latents.shape, found.latents.dtype) == ((8, codec.config.latent_dim), np.float32)
    assert list(found.loss) == list(found.start_loss) == ["l1", "stft", "mel", TOTAL]
    assert found.steps == 40
    assert found.seconds > 0
    assert found.loss[TOTAL] < 0.8 * found.start_loss[TOTAL]
    assert found.loss["mel"] < 0.8 * found.start_loss["mel"]


@pytest.mark.slow
def test_latents_quantise_to_the_codes(codec, found):
    np.testing.assert_array_equal(codes_of(codec, found.latents), found.codes)


def test_the_loss_is_that_of_the_decoded_codes(codec, wave, found):
    decoded = codec.decode(mx.array(found.codes)[None])[:, : len(wave)]
    target = mx.array(wave)[None]
    expected = {
        "l1": waveform_l1(decoded, target).item(),
        "stft": multi_resolution_stft_loss(decoded, target, sizes=QUICK.stft_sizes).item(),
        "mel": log_mel_loss(decoded, target).item(),
    }
    assert found.loss == pytest.approx(expected | {TOTAL: sum(expected.values())}, rel=1e-5)
    assert reconstruction_loss(codec, found.codes, wave, QUICK) == found.loss


def test_without_a_section_all_weights_are_1(codec, wave, found):
    loss = reconstruction_loss(codec, found.codes, wave)
    assert loss[TOTAL] == pytest.approx(loss["l1"] + loss["stft"] + loss["mel"])


def test_weights_are_the_sections(codec, wave, found):
    section = QUICK.model_copy(update={"losses": EncoderLosses(sound=30.0)})
    other = optimise_codes(codec, wave, start=found.latents, steps=15, losses=section)
    assert other.loss[TOTAL] == pytest.approx(30 * sum(other.loss[name] for name in ("l1", "stft", "mel")))
    assert other.loss[TOTAL] <= 30 * found.loss[TOTAL]


def test_better_than_random_codes(codec, wave, found):
    for seed in range(5):
        codes = codes_of(codec, random_latents(codec, 8, seed))
        assert found.loss[TOTAL] < 0.8 * reconstruction_loss(codec, codes, wave, QUICK)[TOTAL]


@pytest.mark.slow
def test_deterministic_by_seed(codec, wave):
    one, same, other = (optimise_codes(codec, wave, steps=3, losses=QUICK, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.latents, same.latents)
    assert not np.array_equal(one.latents, other.latents)


def test_nothing_of_the_codec_changes(miniature, wave):
    codec = codec_of(miniature)
    before = {name: np.array(value) for name, value in tree_flatten(codec.parameters())}
    optimise_codes(codec, wave, steps=2, losses=QUICK)
    for name, value in tree_flatten(codec.parameters()):
        np.testing.assert_array_equal(np.array(value), before[name])


@pytest.mark.parametrize("part", ["semantic", "acoustic"])
@pytest.mark.slow
def test_both_parts_are_searched(semantic_codec, part):
    """A clip that the decoder itself made, started from its own codes with one part spoilt: that part gets better."""
    codec, n = semantic_codec, semantic_codec.config.semantic_dim
    truth, start = 0.7 * random_latents(codec, 6), 0.7 * random_latents(codec, 6)
    wave = codec.decode_audio(codes_of(codec, truth))
    spoilt = slice(0, n) if part == "semantic" else slice(n, None)
    start[:, spoilt] = 0.7 * random_latents(codec, 6, seed=1)[:, spoilt]
    piece = optimise._Piece(optimise._Objective(codec, QUICK), wave, start, slice(0, 6))
    gradient = np.array(mx.grad(lambda x: piece.loss(x)[1])(mx.array(start)))
    assert (np.abs(gradient[:, spoilt]).max(axis=1) > 0).all()
    found = optimise_codes(codec, wave, start=start, steps=30, losses=QUICK)
    assert found.loss[TOTAL] < 0.8 * found.start_loss[TOTAL]
    books = slice(0, 1) if part == "semantic" else slice(1, None)
    assert not np.array_equal(found.codes[books], codes_of(codec, start)[books])


# ---- starts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e-6, 0.1, 1e4, 1e30])
def test_never_worse_than_the_start(codec, wave, rate):
    start = random_latents(codec, 8)
    found = optimise_codes(codec, wave, start=start, steps=4, learning_rate=rate, losses=QUICK)
    assert found.start_loss == reconstruction_loss(codec, codes_of(codec, start), wave, QUICK)
    assert found.loss[TOTAL] <= found.start_loss[TOTAL]
    if rate == 1e-6:
        np.testing.assert_array_equal(found.codes, codes_of(codec, start))


@pytest.mark.slow
def test_the_best_of_all_steps_is_kept(codec, wave):
    """Whatever follows is worse by far: what was found by then is returned, not the start and not the last."""
    start = random_latents(codec, 8)
    objective = optimise._Objective(codec, QUICK)
    piece, calls = optimise._Piece(objective, wave, start, slice(0, 8)), []

    def worse_after_six(latents):
        calls.append(latents)
        total, reconstruction = piece.loss(latents)
        return total, reconstruction + 10.0 * (len(calls) > 6)

    found, steps = optimise._Adam(objective, 12, 0.1, 12, lambda n: None).run(worse_after_six, start)
    assert (steps, len(calls)) == (12, 13)
    all_along, _ = optimise._Adam(objective, 12, 0.1, 12, lambda n: None).run(piece.loss, start)
    first, sixth, last = (piece.loss(mx.array(x))[1].item() for x in (start, found, all_along))
    assert last < sixth < first


def test_pieces_that_harm_the_whole_are_dropped(codec, wave, monkeypatch):
    """A piece is no worse than its start, but as the next one's context it may cost more than it gains."""
    start = random_latents(codec, 8)
    worse = random_latents(codec, 8, seed=3)
    losses = [reconstruction_loss(codec, codes_of(codec, x), wave, QUICK)[TOTAL] for x in (start, worse)]
    start, worse = (start, worse) if losses[0] < losses[1] else (worse, start)
    monkeypatch.setattr(optimise._Adam, "run", lambda self, loss, piece: (worse, 1))
    found = optimise_codes(codec, wave, start=start, steps=1, losses=QUICK)
    np.testing.assert_array_equal(found.latents, start)
    assert found.loss == found.start_loss


def test_an_encoders_start_is_the_better_one_to_hold(codec, wave, found):
    """Started from a result, the search keeps it at least."""
    again = optimise_codes(codec, wave, start=mx.array(found.latents), steps=5, losses=QUICK)
    assert again.start_loss == found.loss
    assert again.loss[TOTAL] <= found.loss[TOTAL]


def test_saturated_starts_can_move(codec, wave):
    """An encoder may give latents where tanh has no gradient left; their codes are kept, their values come back."""
    start = random_latents(codec, 8)
    n = codec.config.semantic_dim
    start[:, n:] = 40.0
    found = optimise_codes(codec, wave, start=start, steps=20, losses=QUICK)
    np.testing.assert_array_equal(codes_of(codec, np.clip(start, -2.18, 2.18))[1:], codes_of(codec, start)[1:])
    assert (found.codes[1:] != 20).mean() > 0.2


@pytest.mark.slow
def test_the_start_takes_for_each_frame_the_code_that_fits_it(semantic_codec, monkeypatch):
    """Of a clip decoded from codes at the middle level, trying every code finds most of them."""
    codec = semantic_codec
    codes = np.full((codec.config.n_codebooks, 6), 10, np.int32)
    codes[0] = [5, 5, 77, 77, 30, 30]
    wave = codec.decode_audio(codes)
    monkeypatch.setattr(optimise, "_TRIALS", 128)
    latents = optimise._Piece(optimise._Objective(codec, QUICK), wave, np.zeros((6, 1)), slice(0, 6)).start(0)
    found = codes_of(codec, latents)
    np.testing.assert_array_equal(found[0, [1, 3, 5]], [5, 77, 30])  # the first of each pair follows another code
    assert np.abs(found[1:] - 10).max() <= 3


# ---- pieces --------------------------------------------------------------------------------------------------------


def test_one_piece_is_the_whole(codec, wave):
    one, larger = (optimise_codes(codec, wave, steps=3, losses=QUICK, piece_frames=n) for n in (8, 1000))
    np.testing.assert_array_equal(one.latents, larger.latents)
    assert one.loss == larger.loss


@pytest.mark.slow
def test_pieces_come_close_to_the_whole(codec, wave, found):
    """Measured alike: within a tenth of the gain."""
    pieces = optimise_codes(codec, wave, steps=40, losses=QUICK, piece_frames=4)
    assert pieces.steps == 2 * 40
    loss = reconstruction_loss(codec, pieces.codes, wave, QUICK)[TOTAL]
    gain = found.start_loss[TOTAL] - found.loss[TOTAL]
    assert loss < found.loss[TOTAL] + 0.1 * gain


def test_a_piece_hears_exact_context(codec):
    """What a later piece minimises is what its codes decode to after all earlier ones, the frame before included."""
    wave = synthesise("papa mino lesu, tara koni. papa mino lesu.", SyntheticSpeaker.sample(0), 0)
    frames, first, stop = 30, 26, 29
    wave, latents = wave[: frames * FRAME], random_latents(codec, frames)
    objective = optimise._Objective(codec, QUICK)
    piece = optimise._Piece(objective, wave, latents, slice(first, stop))
    _, total = piece.loss(mx.array(latents[first:stop]))
    decoded = codec.decode(mx.array(codes_of(codec, latents))[None])[:, (first - 1) * FRAME : stop * FRAME]
    expected = objective.terms(decoded, mx.array(wave[None, (first - 1) * FRAME : stop * FRAME]))[TOTAL]
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(codec, wave):
    """Twice the clip: the same peak, but for the samples themselves (context is whole in both)."""
    peaks = []
    for repeats in (4, 8):
        clip = np.tile(wave[: 7 * FRAME], repeats)
        mx.clear_cache()
        mx.reset_peak_memory()
        base = mx.get_active_memory()
        optimise_codes(codec, clip, start=random_latents(codec, 7 * repeats), steps=1, losses=QUICK, piece_frames=7)
        peaks.append(mx.get_peak_memory() - base)
    assert peaks[1] < 1.2 * peaks[0]


# ---- the end, and progress -----------------------------------------------------------------------------------------


def test_ends_early_without_gain(codec, wave):
    steps = []
    found = optimise_codes(codec, wave, steps=50, learning_rate=1e-7, patience=4, losses=QUICK, progress=steps.append)
    assert found.steps == 4
    assert sum(steps) == 50


def test_progress_counts_steps_of_all_pieces(codec, wave):
    steps = []
    optimise_codes(codec, wave, steps=3, losses=QUICK, piece_frames=3, progress=steps.append)
    assert sum(steps) == 9


def test_silence_gives_finite_codes_in_a_silent_clip(codec):
    found = optimise_codes(codec, np.zeros(3 * FRAME, np.float32), steps=10, losses=QUICK)
    assert np.isfinite(found.latents).all()
    codec.check_codes(found.codes)
    assert found.loss[TOTAL] < found.start_loss[TOTAL]


@pytest.mark.parametrize("samples", [FRAME, FRAME + 1, 2 * FRAME - 1])
def test_clips_of_broken_frames(codec, wave, samples):
    found = optimise_codes(codec, wave[:samples], steps=2, losses=QUICK, piece_frames=1)
    assert found.codes.shape[1] == -(-samples // FRAME)
    assert np.isfinite(found.loss[TOTAL])


# ---- mistakes ------------------------------------------------------------------------------------------------------


def test_clips_that_cannot_be_used(codec, wave):
    with pytest.raises(DataError, match=r"0\.05 s of audio is shorter than one frame of codes \(0\.08 s\)"):
        optimise_codes(codec, wave[:1200])
    with pytest.raises(DataError, match="NaN"):
        optimise_codes(codec, np.where(np.arange(len(wave)) == 9, np.nan, wave))
    with pytest.raises(ValueError, match="waveform must be"):
        optimise_codes(codec, wave[None])


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"patience": 0}, {"piece_frames": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}],
)
def test_arguments_out_of_range(codec, wave, wrong):
    with pytest.raises(ValueError, match="at least 1"):
        optimise_codes(codec, wave, **wrong)


def test_starts_that_do_not_fit(codec, wave):
    with pytest.raises(ValueError, match="start must be"):
        optimise_codes(codec, wave, start=random_latents(codec, 7))
    start = random_latents(codec, 8)
    start[3, 3] = np.nan
    with pytest.raises(CheckpointError, match="encoder's weights are damaged"):
        optimise_codes(codec, wave, start=start)


def test_a_damaged_decoder(miniature, wave):
    codec = codec_of(miniature)
    weight = codec.output_proj.conv.parametrizations.weight
    weight.original0 = weight.original0 * mx.nan
    with pytest.raises(CheckpointError, match="decoder gives audio that is not finite"):
        optimise_codes(codec, wave, losses=QUICK)
