"""Times of words: the path through cross-attention against a plain one and mlx-whisper's, texts to words."""

import numpy as np
import pytest
from tiny_whisper import SENTENCE, write_whisper

from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.whisper.hearing import Listener, spelled
from mlx_voxclone.whisper.reader import Reader
from mlx_voxclone.whisper.words import timed_words, token_frames, warped


def plainly_warped(cost: np.ndarray) -> float:
    """What the cheapest path costs, cell by cell."""
    best = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    best[0, 0] = 0
    for i in range(1, best.shape[0]):
        for j in range(1, best.shape[1]):
            best[i, j] = cost[i - 1, j - 1] + min(best[i - 1, j - 1], best[i - 1, j], best[i, j - 1])
    return best[-1, -1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (4, 9), (12, 40), (9, 4)])
def test_the_path_is_the_cheapest(shape):
    cost = np.random.default_rng(sum(shape)).normal(size=shape)
    rows, columns = warped(cost)
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, shape[0] - 1, shape[1] - 1)
    steps = np.stack([np.diff(rows), np.diff(columns)])
    assert ((steps >= 0) & (steps <= 1)).all()
    assert (steps.sum(axis=0) > 0).all()
    assert cost[rows, columns].sum() == pytest.approx(plainly_warped(cost))


ALL = slice(None)


def attending(spans: list[tuple[int, int]], heads: int = 2) -> np.ndarray:
    """Scores of tokens that attend to their own frames."""
    scores = np.random.default_rng(0).normal(0, 0.1, (heads, len(spans), 1500))
    for token, (first, last) in enumerate(spans):
        scores[:, token, first:last] += 12
    return scores


def test_a_token_begins_where_it_is_attended_to():
    spans = [(0, 20), (20, 45), (45, 50), (50, 90), (90, 100)]
    assert token_frames(attending(spans), ALL, 100).tolist() == [0, 20, 45, 50, 90, 100]


def test_positions_before_the_text_count_for_what_stands_out():
    """A frame to which the start of transcript attends as much as a token does is no sign of that token."""
    scores = attending([(0, 60), (30, 60), (60, 100)])  # the first position is none of the text's
    starts = token_frames(scores, slice(1, 3), 100)
    assert starts.tolist() == [0, 60, 100]


def test_no_token_lies_in_a_pause():
    spans = [(0, 20), (20, 70), (70, 100)]  # the second one rests on the pause from 40 to 60
    speech = np.ones(100, bool)
    speech[40:60] = False
    starts = token_frames(attending(spans), ALL, 100, speech)
    assert starts.tolist() == [0, 20, 70, 100]
    late = token_frames(attending([(0, 20), (45, 70), (70, 100)]), ALL, 100, speech)
    assert not 40 <= late[1] < 60


def test_words_have_the_times_of_their_tokens():
    text, ends = " Don't stop, twenty-one!", [4, 6, 11, 12, 19, 20, 23, 24]
    words = timed_words(text, ends, np.arange(10) * 10)
    assert [word.text for word in words] == ["Don't", "stop", "twenty", "one"]
    times = [(word.start, word.end) for word in words]
    np.testing.assert_allclose(times, [(0.0, 0.4), (0.4, 0.6), (0.8, 1.0), (1.2, 1.4)])


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    pytest.importorskip("mlx_whisper", reason="the extra `transcribe` is not installed")
    return write_whisper(tmp_path_factory.mktemp("whisper") / "a", heads=[[0, 1], [1, 0]])


WAVE = synthesise("mana lomi nalu wera.", SyntheticSpeaker.sample(0), 0)


def test_what_is_heard_is_kept_and_comes_back(whisper, tmp_path, monkeypatch):
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path))
    with Listener(str(whisper)) as listener:
        heard = listener.hear(WAVE, "de")
        assert (heard.text, heard.language) == (SENTENCE, "de")
        assert [word.text for word in heard.words] == ["Good", "morning", "dear", "voice"]
        times = [t for word in heard.words for t in (word.start, word.end)]
        assert times == sorted(times)
        assert 0 <= times[0] <= times[-1] <= len(WAVE) / 24000 + 0.02
        monkeypatch.setattr(Reader, "read", None)  # it is not heard again
        assert listener.hear(WAVE, "de") == heard
        (file,) = tmp_path.rglob("*.json")
    monkeypatch.undo()
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path))
    file.write_text('{"text": "x", "language": 1, "words": []}')  # damaged: heard again
    with Listener(str(whisper)) as listener:
        assert listener.hear(WAVE, "de") == heard


def test_a_cache_that_cannot_be_written_costs_nothing_else(whisper, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "file" / "cache"))
    with Listener(str(whisper)) as listener:
        assert listener.hear(WAVE, "de").text == SENTENCE


def test_characters_of_several_tokens_count_once_they_are_whole(whisper):
    tokenizer = Reader(str(whisper))._tokenizer(None, "ja")
    tokens = tokenizer.encode(" 猫が鳴く 😀")
    text, ends = spelled(tokens, tokenizer)
    assert text == " 猫が鳴く 😀"
    assert ends == sorted(ends)
    assert ends[-1] == len(text)


@pytest.mark.slow
def test_times_are_those_of_mlx_whisper(whisper):
    """The same, to the bit of a frame. Its compiled path takes seconds to be compiled."""
    import mlx.core as mx
    from mlx_whisper import audio, timing

    from mlx_voxclone.audio.io import resample

    reader, text = Reader(str(whisper)), "Good morning dear voice"
    reading = reader.read(WAVE, text, "en")
    scores = np.stack([reading.attention(layer)[head] for layer, head in reader.published_heads()])
    frames = len(WAVE) // 480
    own = timed_words(*spelled(reading.tokens, reading.tokenizer), token_frames(scores, reading.predicting, frames))
    heard = resample(WAVE, 24000, 16000)
    mel = audio.log_mel_spectrogram(heard, 80, padding=480_000)[:-3000]  # as `transcribe` makes it
    mel = audio.pad_or_trim(mel, 3000, axis=-2)
    theirs = timing.find_alignment(
        reader.model, reading.tokenizer, reading.tokens, mel.astype(mx.float32), num_frames=2 * frames
    )
    theirs = [word for word in theirs if word.word.strip()]
    assert [word.text for word in own] == [word.word.strip() for word in theirs]
    np.testing.assert_allclose([w.start for w in own], [w.start for w in theirs], atol=1e-6)
