"""The Whisper teacher on tiny random Whispers: states against a numpy reference, texts, languages, what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.signal import medfilt
from tiny_whisper import LANGUAGE, SENTENCE, write_whisper

from mlx_voxclone.audio.io import resample
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.train.whisper import teacher as asr_teacher
from mlx_voxclone.train.whisper.teacher import AsrTeacher, choose_heads_by_dtw
from mlx_voxclone.whisper import reader as whisper_reader
from mlx_voxclone.whisper.model import WhisperFiles
from mlx_voxclone.whisper.reader import decoder_states

pytest.importorskip("mlx_whisper", reason="the extra `transcribe` is not installed")

WAVE = synthesise("mana lomi nalu wera.", SyntheticSpeaker.sample(0), 0)[:30001]  # 16 latent frames, the last partial


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """Says SENTENCE whatever it hears; publishes two of its four heads."""
    return write_whisper(tmp_path_factory.mktemp("whisper") / "a", heads=[[0, 1], [1, 0]])


@pytest.fixture(scope="module")
def teacher(whisper):
    return AsrTeacher(str(whisper))


def one_line(caught):
    assert "\n" not in str(caught.value)


def inputs(teacher, samples, text, language):
    """Tokens and audio as Whisper is documented to take them, without the teacher's own code."""
    import mlx.core as mx
    from mlx_whisper.audio import log_mel_spectrogram, pad_or_trim
    from mlx_whisper.tokenizer import get_tokenizer

    tokenizer = get_tokenizer(True, num_languages=99, language=language, task="transcribe")
    tokens = [tokenizer.sot, tokenizer.to_language_token(language), tokenizer.transcribe, tokenizer.no_timestamps]
    heard = resample(samples, 24000, 16000)
    mel = pad_or_trim(log_mel_spectrogram(np.pad(heard, (0, 480_000)), 80)[:-3000], 3000, axis=-2)
    return mx.array([[*tokens, *tokenizer.encode(" " + text), tokenizer.eot]]), teacher.model.encoder(mel[None])


def reference_states(teacher, samples, text, language, heads, *, crop=True):
    """The term's definition in numpy loops; crop=False is the mistake, all of the 30 s squeezed onto the clip."""
    tokens, features = inputs(teacher, samples, text, language)
    hidden, _ = decoder_states(teacher.model, tokens, features)
    scores = teacher.model.decoder(tokens, features)[2]
    frames = -(-len(samples) // 480) if crop else 1500
    maps = []
    for layer, head in heads:
        raw = np.array(scores[layer][0, head, :, :frames], np.float64)
        weights = np.exp(raw - raw.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        weights = (weights - weights.mean(axis=0)) / weights.std(axis=0)
        padded = np.pad(weights[3:-1], ((0, 0), (3, 3)), mode="reflect")
        maps.append([medfilt(row, 7)[3:-3] for row in padded])
    odds = np.exp(np.mean(maps, axis=0))
    per_frame = (odds / odds.sum(axis=0)).T @ np.array(hidden[0, 3:-1], np.float64)
    n = -(-len(samples) // 1920)
    at = 4 * np.arange(n) + 2.0 if crop else np.linspace(0, 1499, n)
    return np.stack([np.interp(at, np.arange(frames), column) for column in per_frame.T], axis=1)


def test_states_are_the_definition(teacher):
    states = teacher.states(WAVE, "Good day to you", "fr")
    assert states.shape == (16, 32) == (16, teacher.dim)
    assert states.dtype == np.float32
    expected = reference_states(teacher, WAVE, "Good day to you", "fr", [(0, 1), (1, 0)])
    np.testing.assert_allclose(states, expected, atol=1e-4)
    assert states.std(axis=0).mean() > 0.1  # frames differ: it is an alignment and no average


def test_the_padding_takes_no_part(teacher):
    """SPEC section 5: attention over 30 s squeezed onto a short clip is not what comes out."""
    wrong = reference_states(teacher, WAVE, "Good day to you", "fr", [(0, 1), (1, 0)], crop=False)
    states = teacher.states(WAVE, "Good day to you", "fr")
    cosine = (states * wrong).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(wrong, axis=-1)
    assert cosine.mean() < 0.9


def test_scores_behind_the_clip_change_nothing(teacher, monkeypatch):
    states = teacher.states(WAVE, "Good day", "fr")
    whole = whisper_reader.decoder_states

    def disturbed(*args):
        import mlx.core as mx

        hidden, scores = whole(*args)
        behind = mx.arange(1500) >= -(-len(WAVE) // 480)
        return hidden, [mx.where(behind, 30.0, s) for s in scores]

    monkeypatch.setattr(whisper_reader, "decoder_states", disturbed)
    np.testing.assert_array_equal(teacher.states(WAVE, "Good day", "fr"), states)


def test_the_states_are_what_the_logits_are_computed_from(teacher):
    tokens, features = inputs(teacher, WAVE, "Good day", "fr")
    hidden, scores = decoder_states(teacher.model, tokens, features)
    logits, _, theirs = teacher.model.decoder(tokens, features)
    np.testing.assert_array_equal(np.array(teacher.model.decoder.token_embedding.as_linear(hidden)), np.array(logits))
    for ours, other in zip(scores, theirs):
        np.testing.assert_array_equal(np.array(ours), np.array(other))


@pytest.mark.slow
def test_greedy_decoding_gives_the_states_of_what_it_hears(teacher):
    heard = teacher.states(WAVE)
    np.testing.assert_array_equal(teacher.states(WAVE, SENTENCE, LANGUAGE), heard)
    np.testing.assert_array_equal(teacher.states(WAVE, f"  {SENTENCE.replace(' ', chr(10))} "), heard)
    np.testing.assert_array_equal(teacher.states(WAVE, "  "), heard)  # blank is no text
    assert np.abs(teacher.states(WAVE, "Something else", LANGUAGE) - heard).max() > 0.1
    assert np.abs(teacher.states(WAVE, SENTENCE, "fr") - heard).max() > 1e-4


def test_the_audio_matters(teacher):
    louder = (WAVE + 0.1 * np.random.default_rng(0).standard_normal(len(WAVE))).astype(np.float32)
    assert np.abs(teacher.states(louder, SENTENCE, "de") - teacher.states(WAVE, SENTENCE, "de")).max() > 1e-3


@pytest.mark.slow
def test_the_same_again(teacher, whisper):
    states = teacher.states(WAVE, SENTENCE)
    teacher.states(WAVE[:9000], "Between")
    np.testing.assert_array_equal(teacher.states(WAVE, SENTENCE), states)
    other = AsrTeacher(str(whisper))
    np.testing.assert_array_equal(other.states(WAVE, SENTENCE), states)
    other.unload()
    np.testing.assert_array_equal(other.states(WAVE, SENTENCE), states)


def test_where_nothing_is_understood_there_are_no_states(tmp_path):
    guessing = AsrTeacher(str(write_whisper(tmp_path / "a", sentence=None)))
    assert guessing.states(WAVE) is None
    assert guessing.states(WAVE, "Given.").shape == (16, 32)
    assert guessing.states(WAVE[:500], "Given.") is None  # less than a window of the spectrogram
    with pytest.raises(DataError, match="recognised no speech in the clips"):
        choose_heads_by_dtw(guessing, [Stub(WAVE)])


@pytest.mark.parametrize(
    ("compression", "probability", "silence", "understood"),
    [
        (1.2, -0.3, 0.1, True),
        (2.5, -0.3, 0.1, False),
        (1.2, -1.1, 0.1, False),
        (1.2, np.nan, 0.1, False),
        (1.2, -0.9, 0.9, False),
        (1.2, -0.3, 0.9, True),
        (1.2, -0.9, np.nan, True),
    ],
)
def test_a_decoding_beyond_whispers_own_limits_is_not_understood(
    whisper, monkeypatch, compression, probability, silence, understood
):
    from mlx_whisper.decoding import DecodingResult

    teacher, tokens = AsrTeacher(str(whisper)), [11, 12, 13]
    figures = {"no_speech_prob": silence, "compression_ratio": compression}
    result = DecodingResult(None, "en", None, tokens, "Words.", probability, **figures)
    monkeypatch.setattr(type(teacher.model), "decode", lambda *_: result)
    assert (teacher.states(WAVE) is not None) == understood


@pytest.mark.parametrize("samples", [600, 1920, 1921, 4801])
def test_short_clips(teacher, samples):
    states = teacher.states(WAVE[:samples], "Oh")
    assert states.shape == (-(-samples // 1920), 32)
    assert np.isfinite(states).all()


def test_heads_are_those_asked_for(whisper, teacher, monkeypatch):
    published = teacher.states(WAVE, "Good day")
    assert teacher.heads == [(0, 1), (1, 0)]
    same = AsrTeacher(str(whisper), heads=[[1, 0], [0, 1]])
    np.testing.assert_array_equal(same.states(WAVE, "Good day"), published)
    one = AsrTeacher(str(whisper), heads=[(1, 1)])
    assert np.abs(one.states(WAVE, "Good day") - published).max() > 0.1
    monkeypatch.setattr(asr_teacher, "MEDIAN", 1)
    assert np.abs(teacher.states(WAVE, "Good day") - published).max() > 0.1
    assert len({t.identity for t in (teacher, one, AsrTeacher(str(whisper), language="fr"))}) == 3


def test_the_published_heads_of_an_old_conversion_are_those_of_the_upper_layers(tmp_path):
    assert AsrTeacher(str(write_whisper(tmp_path / "a"))).heads == [(1, 0), (1, 1)]


@pytest.mark.slow
def test_languages(teacher, whisper, tmp_path):
    french = teacher.states(WAVE, "Good day", "fr-CA")
    np.testing.assert_array_equal(teacher.states(WAVE, "Good day", "French"), french)
    np.testing.assert_array_equal(AsrTeacher(str(whisper), language="fr").states(WAVE, "Good day"), french)
    with pytest.raises(DataError, match="'klingon': unknown to Whisper"):
        teacher.states(WAVE, "Good day", "klingon")
    english = AsrTeacher(str(write_whisper(tmp_path / "en", n_vocab=51864)))
    np.testing.assert_array_equal(english.states(WAVE), english.states(WAVE, SENTENCE, "en"))
    with pytest.raises(DataError, match="is an English-only model, but the language is 'de'"):
        english.states(WAVE, "Guten Tag", "de")


def test_special_tokens_in_a_text_are_ordinary_text(teacher):
    plain = teacher.states(WAVE, "a <|endoftext|> b", "en")
    assert np.abs(plain - teacher.states(WAVE, "a b", "en")).max() > 1e-3


@pytest.mark.parametrize(
    ("samples", "text", "message"),
    [
        (30 * 24000 + 1, "Good day", "30.0 s of audio: Whisper takes clips of up to 30 s"),
        (0, "Good day", "0.0 s of audio"),
        (24000, "word " * 100, "a text of 100 tokens, but Whisper takes at most 59"),
    ],
)
def test_clips_that_do_not_fit_are_refused(teacher, samples, text, message):
    with pytest.raises(DataError, match=message) as caught:
        teacher.states(np.zeros(samples, np.float32), text)
    one_line(caught)


def test_the_longest_clip_and_text(teacher):
    assert teacher.states(np.zeros(30 * 24000, np.float32), ("word " * 59).strip(), "en").shape == (375, 32)


@pytest.mark.parametrize("heads", ["all", [], [(0,)], [(0, -1)], [(0, 1.0)], ["01"], None, [3]])
def test_heads_that_are_none_are_refused(heads):
    with pytest.raises(ConfigError, match="heads must be 'published', 'dtw' or a list") as caught:
        AsrTeacher("unused", heads=heads)
    one_line(caught)


def test_heads_that_the_model_lacks_are_refused(whisper, tmp_path):
    message = "no alignment head 0 in layer 7: its decoder has 2 layers of 2 heads"
    with pytest.raises(ConfigError, match=message) as caught:
        AsrTeacher(str(whisper), heads=[(0, 1), (7, 0)]).states(WAVE, "Good day")
    one_line(caught)
    with pytest.raises(DataError, match=message):
        AsrTeacher(str(write_whisper(tmp_path / "a", heads=[[7, 0]]))).states(WAVE, "Good day")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_mels": 40}, "n_mels is 40, but its spectrogram has 80 or 128 bands"),
        ({"n_audio_ctx": 750}, "n_audio_ctx is 750, but 30 s of audio are 1500 frames"),
        ({"n_text_layer": 0}, "it has no text decoder"),
        ({"n_text_state": 64}, "n_audio_state 32 and n_text_state 64 differ"),
        ({"n_vocab": 1000}, "n_vocab is 1000"),
        ({"n_text_layer": 3}, "does not fit config.json: missing or of another shape: decoder.blocks.2"),
        ({"n_text_ctx": 448}, "another shape: decoder.positional_embedding"),
        ({"n_mels": None}, "cannot be loaded as a Whisper model"),
        ({"nope": 1}, "cannot be loaded as a Whisper model .*nope"),
    ],
)
def test_whispers_of_the_wrong_size_are_refused(whisper, tmp_path, changes, message):
    config = json.loads((whisper / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    (tmp_path / "weights.safetensors").symlink_to(whisper / "weights.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        AsrTeacher(str(tmp_path)).states(WAVE, "Good day")
    one_line(caught)


def test_models_that_are_not_there_are_refused(whisper, tmp_path):
    for model in (tmp_path, tmp_path / "nowhere", "no-such-owner/no-such-whisper"):
        with pytest.raises(DataError, match="cannot be loaded as a Whisper model") as caught:
            AsrTeacher(str(model)).identity  # noqa: B018
        one_line(caught)
    with pytest.raises(DataError, match="a file; name a directory"):
        AsrTeacher(str(whisper / "config.json")).states(WAVE, "Good day")


def test_a_damaged_model_is_refused(tmp_path):
    import mlx.core as mx

    path = write_whisper(tmp_path / "a") / "weights.safetensors"
    weights = {name: mx.array(np.array(value)) for name, value in mx.load(str(path)).items()}
    mx.save_safetensors(str(path), weights | {"decoder.ln.bias": mx.full(32, mx.nan)})
    with pytest.raises(DataError, match="its states are not finite"):
        AsrTeacher(str(path.parent)).states(WAVE, "Good day")


def test_quantised_and_npz_models_load(whisper, tmp_path):
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    plain = AsrTeacher(str(whisper)).states(WAVE, "Good day")
    model, _ = WhisperFiles(str(whisper)).load()
    for name, quantise in (("npz", False), ("quantised", True)):
        (tmp_path / name).mkdir()
        config = json.loads((whisper / "config.json").read_text())
        if quantise:
            config["quantization"] = {"group_size": 32, "bits": 8}
            nn.quantize(model, group_size=32, bits=8)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        mx.savez(str(tmp_path / name / "weights.npz"), **dict(tree_flatten(model.parameters())))
        states = AsrTeacher(str(tmp_path / name)).states(WAVE, "Good day")
        np.testing.assert_allclose(states, plain, atol=0.5 if quantise else 0)


@pytest.mark.slow
def test_on_a_gpu_it_computes_in_half_precision(whisper, teacher, monkeypatch):
    import mlx.core as mx

    states = teacher.states(WAVE)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))  # it still runs on the CPU
    half = AsrTeacher(str(whisper))
    np.testing.assert_allclose(half.states(WAVE), states, atol=0.1)
    assert half.model.decoder.ln.weight.dtype == mx.float16
    np.testing.assert_array_equal(half.states(WAVE, SENTENCE), half.states(WAVE))


class Stub:
    text = language = None

    def __init__(self, wave):
        self.wave = wave

    def read(self):
        return self.wave


class Planted(AsrTeacher):
    """Of four heads (1, 0) goes along with the text; one rests, one is the text backwards, one is noise."""

    def __init__(self, model, **options):
        super().__init__(model, **options)
        self.reader.read = self._planted

    def _planted(self, samples, text, language):
        along = np.full((10, 1500), -9.0)
        for n in range(10):
            along[n, 15 * n : 15 * n + 15] = 0
        resting = np.zeros((10, 1500))
        resting[:, 40] = 9
        noise = np.random.default_rng(0).standard_normal((10, 1500))
        scores = [np.stack([along[::-1], resting]), np.stack([along, noise])]
        return whisper_reader.Reading([0] * 9, np.zeros((10, 32)), scores.__getitem__, slice(None), None)


def test_heads_chosen_by_dtw_go_along_with_the_text(whisper):
    teacher = Planted(str(whisper), heads="dtw")
    clips = [Stub(np.zeros(72000, np.float32)), Stub(np.zeros(71000, np.float32))]
    assert choose_heads_by_dtw(teacher, clips, 1) == [(1, 0)]
    assert choose_heads_by_dtw(teacher, clips) == [(0, 0), (0, 1), (1, 0), (1, 1)]  # no more than there are
    shares = teacher.monotone_shares(clips[0].read(), None, None)
    assert shares[1, 0] > 0.99
    assert shares[0].max() < 0.4


def test_heads_are_chosen_before_they_are_used(whisper):
    teacher = AsrTeacher(str(whisper), heads="dtw")
    assert teacher.needs_heads
    for use in (lambda: teacher.states(WAVE, "Good day"), lambda: teacher.identity):
        with pytest.raises(ValueError, match="still to be chosen"):
            use()
    chosen = choose_heads_by_dtw(teacher, [Stub(WAVE)], 2)
    assert chosen == choose_heads_by_dtw(AsrTeacher(str(whisper)), [Stub(WAVE)], 2)
    teacher.use_heads(chosen)
    fixed = AsrTeacher(str(whisper), heads=chosen)
    assert teacher.identity == fixed.identity
    np.testing.assert_array_equal(teacher.states(WAVE, "Good day"), fixed.states(WAVE, "Good day"))


def test_without_mlx_whisper_one_line_says_how_to_get_it(whisper, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_whisper.load_models", None)  # as if not installed
    with pytest.raises(DataError, match=r"needs mlx-whisper .*; install it with: pip install 'mlx-voxclone\[transc"):
        AsrTeacher(str(whisper)).states(WAVE, "Good day")


@pytest.mark.slow
def test_importing_it_and_naming_a_model_imports_no_whisper(whisper):
    code = (
        "import sys; from mlx_voxclone.train.whisper.cache import AsrTeacher, TeacherCache; import mlx_voxclone.losses."
        f"distillation; t = AsrTeacher({str(whisper)!r}); t.dim, t.identity; "
        "print([m for m in ('mlx_whisper', 'mlx_lm', 'numba', 'torch', 'tiktoken') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
