"""Many chunks behind one voice: doubtful ones again, levels even, no click at a join; resumed as if never stopped."""

import json

import numpy as np
import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.model.generation import GeneratedCodes
from mlx_voxclone.speech import narration
from mlx_voxclone.speech.chunks import Chunk, split_text
from mlx_voxclone.speech.growing_wav import growing_wav, partial_names
from mlx_voxclone.speech.narration import TRIES, Narration
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands"]
TEXT = "The ship went on through the fog, and nobody saw a light. "


@pytest.fixture(scope="module")
def speaker(miniature):
    return Speaker.load(miniature)


@pytest.fixture
def said(speaker, monkeypatch):
    """`said(answer)`: `answer(text, attempt)` is how many frames a chunk gets and whether it ends; a tone that loud."""
    calls = []

    def put(answer, level=lambda text: 0.1):
        spoken = {}

        def generate(model, prompts, *, max_frames, seeds, may_be_empty, **_):
            assert not may_be_empty
            results = []
            for seed in seeds:
                number, attempt = seed % narration._SEEDS, seed // narration._SEEDS
                calls.append((number, attempt))
                frames, ended = answer(number, attempt)
                codes = np.full((37, min(frames, max_frames)), number, np.int32)
                results.append(GeneratedCodes(codes, ended and frames <= max_frames))
            return results

        def decode(codes):
            n, number = codes.shape[1] * 1920, int(codes[0, 0])
            tone = level(number) * np.sin(2 * np.pi * 220 * np.arange(n) / 24000)
            tone[: 1920 * 2] = tone[-1920 * 2 :] = 0
            spoken[number] = tone
            return tone.astype(np.float32)

        monkeypatch.setattr(narration, "generate_batch", generate)
        monkeypatch.setattr(speaker.model.audio_tokenizer, "decode_audio", decode, raising=False)
        return calls

    return put


def chunks_of(count):
    return [Chunk(TEXT.strip(), 0.35)] * count


def rows_of(speaker):
    return speaker.voice_rows(speaker.voices[0])


def test_in_order_each_once_with_its_pause(speaker, said):
    calls = said(lambda number, attempt: (50, True))
    found = list(Narration(speaker, chunks_of(10), rows_of(speaker), batch=4))
    assert [one.number for one in found] == list(range(10))
    assert [number for number, _ in calls] == list(range(10))
    assert all(one.tries == 1 and one.doubt is None for one in found)
    for one in found:
        silent = np.flatnonzero(np.abs(one.samples) > 1e-4)[-1]
        assert 0.32 < (len(one.samples) - silent) / 24000 < 0.55  # where speech ends is known to 0.2 s


def test_doubtful_chunks_are_spoken_again_with_other_seeds(speaker, said):
    def answer(number, attempt):
        if number == 5:
            return (0, True) if attempt == 0 else (50, True)
        if number == 6:
            return 9999, False
        if number == 9:
            return [(5, True), (300, True), (14, True)][attempt]
        return 50, True

    calls = said(answer)
    found = {one.number: one for one in Narration(speaker, chunks_of(12), rows_of(speaker), batch=4)}
    assert (found[5].tries, found[5].doubt) == (2, None)
    assert found[6].tries == TRIES
    assert found[6].doubt.startswith("it did not end within")
    assert found[9].tries == TRIES
    assert "were expected" in found[9].doubt
    assert len(found[9].samples) / 24000 == pytest.approx(14 * 0.08 - 4 * 0.08 + 0.35 + 0.06, abs=0.1)  # nearest of all
    assert [calls.count((9, k)) for k in range(TRIES)] == [1, 1, 1]


def test_silence_stays_silence_and_is_told(speaker, said):
    said(lambda number, attempt: (0, True))
    (one,) = Narration(speaker, chunks_of(1), rows_of(speaker))
    assert one.doubt == "nothing was said"
    assert not one.samples.any()
    assert len(one.samples) == round(0.35 * 24000)


def test_levels_are_even_and_joins_without_a_click(speaker, said):
    said(lambda number, attempt: (50, True), level=lambda number: 0.1 * 10 ** ((number % 3 - 1) * 3 / 20))
    found = [one.samples for one in Narration(speaker, chunks_of(12), rows_of(speaker))][4:]
    levels = [20 * np.log10(np.abs(samples).max()) for samples in found]
    assert max(levels) - min(levels) < 0.5  # they were 6 dB apart
    joined = np.concatenate(found)
    steepest = max(np.abs(np.diff(samples[4800:-12000])).max() for samples in found)
    assert np.abs(np.diff(joined)).max() < 1.1 * steepest
    assert all(samples[0] == 0 and samples[-1] == 0 for samples in found)


def test_the_model_cannot_end_at_once(speaker, monkeypatch):
    """Its first frame is never END, whatever it would like best."""
    head = speaker.model.acoustic_transformer
    logits = head.semantic_logits

    def end(hidden):
        import mlx.core as mx

        out = logits(hidden)
        return mx.where(mx.arange(out.shape[-1]) == 1, 1e4, out)

    monkeypatch.setattr(head, "semantic_logits", end, raising=False)
    for one in Narration(speaker, chunks_of(2), rows_of(speaker)):
        assert one.doubt is None
        assert one.samples.any()


@pytest.mark.parametrize(
    ("stop", "count"), [(4, 6), *(pytest.param(stop, 9, marks=pytest.mark.slow) for stop in (1, 4, 6))]
)
def test_a_book_that_was_interrupted_goes_on_as_if_it_had_not_been(speaker, tmp_path, stop, count):
    chunks = split_text(TEXT * count)
    assert len(chunks) == count

    def narrate(path, resume=False, until=None):
        with growing_wav(path, {"text": "a"}, resume=resume) as wav:
            narrated = Narration(speaker, chunks, rows_of(speaker), first=wav.chunks, memory=wav.memory, batch=4)
            for spoken in narrated:
                wav.append(spoken.samples, narrated.memory)
                if spoken.number + 1 == until:
                    raise KeyboardInterrupt

    narrate(tmp_path / "whole.wav")
    with pytest.raises(KeyboardInterrupt):
        narrate(tmp_path / "book.wav", until=stop)
    audio, state = partial_names(tmp_path / "book.wav")
    assert json.loads(state.read_text())["chunks"] == stop
    with audio.open("ab") as file:  # a kill in the middle of the next chunk
        file.write(b"\1\2" * 1000)
    narrate(tmp_path / "book.wav", resume=True)
    assert (tmp_path / "book.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.wav", "whole.wav"]


IDENTITY = {"text": "a", "voice": "b"}


def write(path, identity=IDENTITY, *, resume=False, chunks=0, then=None):
    with growing_wav(path, identity, resume=resume) as wav:
        for _ in range(chunks):
            wav.append(np.full(1000, 0.1, np.float32))
        if then is not None:
            raise then


def partial(path, chunks=2):
    with pytest.raises(KeyboardInterrupt):
        write(path, chunks=chunks, then=KeyboardInterrupt)


def test_a_partial_file_is_not_overwritten(tmp_path):
    partial(tmp_path / "book.wav")
    with pytest.raises(DataError, match=r"book\.partial\.wav: holds 2 chunks .* --resume"):
        write(tmp_path / "book.wav", {"text": "a", "voice": "b"}, resume=False)
    with pytest.raises(DataError, match="is of another voice"):
        write(tmp_path / "book.wav", {"text": "a", "voice": "c"}, resume=True)


@pytest.mark.parametrize("content", ["", "[]", "7", '{"chunks": -1}', '{"chunks": 2, "samples": 10}', "[" * 9000])
def test_a_damaged_state_is_one_line(tmp_path, content):
    partial(tmp_path / "book.wav")
    partial_names(tmp_path / "book.wav")[1].write_text(content)
    with pytest.raises(DataError, match=r"book\.partial\.json is damaged; delete"):
        write(tmp_path / "book.wav", {}, resume=True)


def test_a_partial_file_that_is_shorter_than_its_state(tmp_path):
    partial(tmp_path / "book.wav")
    audio = partial_names(tmp_path / "book.wav")[0]
    audio.write_bytes(audio.read_bytes()[:500])
    with pytest.raises(DataError, match="is shorter than"), growing_wav(tmp_path / "book.wav", {}, resume=True):
        pass


def test_nothing_is_left_of_what_never_began(tmp_path):
    partial(tmp_path / "book.wav", chunks=0)
    assert not list(tmp_path.iterdir())
