"""Many chunks behind one voice: doubtful ones again, levels even, no click at a join; resumed as if never stopped."""

import json
import shutil
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.api.speech import TextToSpeech
from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.errors import DataError
from mlx_voxclone.model.config import END_CODE
from mlx_voxclone.model.generation import GeneratedCodes
from mlx_voxclone.speech import narration
from mlx_voxclone.speech.chunks import Chunk, split_text
from mlx_voxclone.speech.narration import MARGIN, TRIES, Heard, Narration
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.speech.to_files.growing_wav import growing_wav, partial_names
from mlx_voxclone.speech.to_files.tally import Tally

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
            k = np.arange(n)
            tone = level(number) * np.sin(2 * np.pi * 220 * k / 24000)
            tone *= np.clip(np.minimum(k - 2 * 1920, n - 2 * 1920 - k) / 240, 0, 1)  # two frames of silence around it
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
    steepest = max(np.abs(np.diff(samples[9600:48000])).max() for samples in found)
    assert np.abs(np.diff(joined)).max() < 1.1 * steepest
    assert all(samples[0] == 0 and samples[-1] == 0 for samples in found)


@pytest.fixture
def ends(speaker, monkeypatch):
    """The model likes END best, always."""
    head = speaker.model.acoustic_transformer
    logits = head.semantic_logits

    def end(hidden):
        out = logits(hidden)
        return mx.where(mx.arange(out.shape[-1]) == END_CODE, 1e4, out)

    monkeypatch.setattr(head, "semantic_logits", end, raising=False)


def test_the_model_cannot_end_at_once(speaker, ends):
    """Its first frame is never END, whatever it would like best: chunks, single texts, streams, the Python API."""
    for one in Narration(speaker, chunks_of(2), rows_of(speaker)):
        assert "long where about" in one.doubt
        assert one.samples.any()
    voice, tts = speaker.voices[0], TextToSpeech(speaker)
    assert (speaker.say(TEXT, voice).frames, speaker.say(TEXT, voice).ended) == (1, True)
    assert [len(piece) for piece in speaker.stream(TEXT, voice)] == [1920]
    assert len(tts.say(TEXT, voice)) == 1920
    assert [len(piece) for piece in tts.stream(TEXT, voice)] == [1920]


@pytest.mark.parametrize("frames", [1, 12])
def test_what_is_far_too_short_for_anybody_is_doubtful_from_the_first(speaker, said, frames):
    said(lambda number, attempt: (frames, True))
    (one,) = Narration(speaker, chunks_of(1), rows_of(speaker), tries=2)
    assert one.tries == (2 if frames == 1 else 1)
    assert (one.doubt is None) == (frames > 1)


def test_frames_of_silence_are_nothing_said(speaker, said):
    said(lambda number, attempt: (50, True), level=lambda number: 0)
    (one,) = Narration(speaker, chunks_of(1), rows_of(speaker))
    assert (one.tries, one.doubt) == (TRIES, "nothing was said")


def test_of_several_tries_the_best_heard_is_taken(speaker, said):
    """One that is not perfect is spoken again, as often as it may be; a perfect one is not."""
    calls = said(lambda number, attempt: (50 + attempt, True))
    wrong = {0: [0], 1: [3, 1, 2], 2: [9, 8, 9]}  # of 11 words, by chunk and attempt

    def listen(text, samples):
        number = int(text.split()[-1][:-1])
        attempt = len(samples) // 1920 - 50
        return Heard("what", wrong[number][attempt], 11)

    chunks = [Chunk(f"{TEXT} number {k}.", 0.3) for k in range(3)]
    found = list(Narration(speaker, chunks, rows_of(speaker), listen=listen))
    assert [(one.tries, one.heard.wrong) for one in found] == [(1, 0), (3, 1), (3, 8)]
    assert [one.doubt for one in found] == [None, None, "what is heard is 'what'"]
    assert [calls.count((k, 2)) for k in range(3)] == [0, 1, 1]
    tally = Tally()
    for one in found:
        tally.count(f"chunk {one.number}", one)
    assert (tally.wrong, tally.words, tally.warning()) == (9, 33, None)
    assert tally.doubts == [("chunk 2", "what is heard is 'what'")]
    tally.count("another", replace(found[2], heard=Heard(None, 9, 9)))
    assert tally.warning().startswith("43% of the words were heard wrong, so much that it could hardly choose")


@pytest.mark.parametrize("memory", [None, {"paces": [0.05] * 9}])
def test_doubts_do_not_depend_on_the_batch(speaker, said, memory):
    """What a chunk lets expect of later ones is learnt in the order of the text, also within a batch."""
    lengths = [40, 44, 9, 300, 47, 14, 130, 50, 16, 41, 120, 4, 45, 43, 14, 42]  # many by those before them alone

    def answer(number, attempt):
        frames = lengths[number] if attempt <= number % 3 else 38 + number  # some are well at the second or third try
        return frames, number != 10 or attempt > 0

    said(answer)
    found = []
    for batch in (1, 3, 4, 8, 16):
        narration = Narration(speaker, chunks_of(16), rows_of(speaker), batch=batch, memory=memory)
        found.append([(one.tries, one.doubt, one.samples.tobytes()) for one in narration])
        found[-1].append(narration.memory)
    assert all(one == found[0] for one in found)
    assert len({tries for tries, *_ in found[0][:-1]}) == TRIES
    assert sum(doubt is not None for _, doubt, _ in found[0][:-1]) >= 2


@pytest.mark.parametrize("pause", [0.0, 0.2, 0.6, 1.5])
def test_the_pause_that_is_asked_for_is_the_pause_that_is_heard(speaker, said, pause):
    """Between the end of speech and the next beginning, the model's own silence included."""
    said(lambda number, attempt: (50, True))
    chunks = [Chunk(TEXT.strip(), pause)] * 4
    joined = np.concatenate([one.samples for one in Narration(speaker, chunks, rows_of(speaker))])
    loud = np.flatnonzero(np.abs(joined) > 1e-3)
    gaps = np.diff(loud)[np.diff(loud) > 2000] / 24000
    assert len(gaps) == 3
    # The speech mask is generous by up to 0.2 s at either side, silence of the model's that is taken for speech.
    assert all(max(pause, 2 * MARGIN) <= gap <= max(pause, 2 * MARGIN) + 0.35 for gap in gaps)


@pytest.mark.slow
def test_a_voice_that_is_removed_while_it_speaks(tmp_path, miniature):
    shutil.copytree(miniature, tmp_path / "m")
    spoken = []
    for remove in (False, True):
        speaker = Speaker.load(tmp_path / "m")
        narration = Narration(speaker, chunks_of(2), rows_of(speaker), batch=1)
        if remove:
            shutil.rmtree(tmp_path / "m" / "voice_embedding")
        spoken.append([one.samples for one in narration])
    np.testing.assert_array_equal(np.concatenate(spoken[0]), np.concatenate(spoken[1]))


@pytest.mark.parametrize(("stop", "count"), [pytest.param(stop, 9, marks=pytest.mark.slow) for stop in (1, 4, 6)])
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


@pytest.mark.parametrize(
    "name", ["<s>", "</s>", "[INST]", "[AUDIO]", "[BEGIN_AUDIO]", "[NEXT_AUDIO_TEXT]", "[REPEAT_AUDIO_TEXT]"]
)
def test_names_of_special_tokens_are_plain_text(speaker, name):
    tokenizer, text = speaker.tokenizer, f"papa {name} mino"
    assert [chunk.text for chunk in split_text(text)] == [text]
    special = set(tokenizer.prompt("papa mino", 5)) - set(tokenizer.encode("papa mino"))  # what is not the text
    assert len(special) == 5  # <s>, [BEGIN_AUDIO], [AUDIO], [NEXT_AUDIO_TEXT], [REPEAT_AUDIO_TEXT]
    plain = [one for one in tokenizer.prompt("papa mino", 5) if one in special]
    assert [one for one in tokenizer.prompt(text, 5) if one in special] == plain


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


@pytest.mark.slow
def test_others_may_generate_what_is_wanted(speaker):
    """A chunk gets one frame more than its limit: that tells an end there from a cut."""
    rows = rows_of(speaker)
    chunks = [Chunk(TEXT.strip(), 0.35), Chunk(TEXT * 2, 0.35)]
    steps = Narration(speaker, chunks, rows).steps()
    wanted = next(steps)
    limits = [Narration(speaker, chunks, rows)._limit(number, None) for number in range(2)]
    assert [one.limit for one in wanted] == [limit + 1 for limit in limits]
    assert len({one.seed for one in wanted}) == 2
    assert [one.prompt.shape[1] for one in wanted] == [speaker.model.config.backbone.dim] * 2
    said = [np.ones((37, n), np.int32) for n in (limits[0], limits[1] - 5)]
    first = steps.send([GeneratedCodes(codes, True) for codes in said])
    assert (first.number, first.tries, first.doubt) == (0, 1, None)
    assert next(steps).number == 1
    with pytest.raises(StopIteration):
        next(steps)
    steps = Narration(speaker, chunks, rows).steps()
    next(steps)
    again = steps.send([GeneratedCodes(np.ones((37, limits[0] + 1), np.int32), True), GeneratedCodes(said[1], True)])
    assert [one.limit for one in again] == [limits[0] + 1]  # cut off, so it is spoken again


def test_a_second_command_does_not_touch_what_the_first_has_written(tmp_path):
    with growing_wav(tmp_path / "book.wav", IDENTITY, resume=False) as wav:
        wav._file.flush()
        content = partial_names(tmp_path / "book.wav")[0].read_bytes()
        assert content
        with pytest.raises(DataError, match="another command is writing it"):
            write(tmp_path / "book.wav", chunks=1)
        assert partial_names(tmp_path / "book.wav")[0].read_bytes() == content
        wav.append(np.full(1000, 0.1, np.float32))
    assert len(read_audio(tmp_path / "book.wav")) == 1000


@pytest.mark.slow
def test_the_miniature_is_doubted_alike_in_batches_of_any_size(speaker, monkeypatch):
    monkeypatch.setattr(narration, "PACE", 0.02)
    monkeypatch.setattr(narration, "SPARE", 0.5)
    texts = ["papa mino lesu tara koni sewu.", "Nobody saw a light.", "The ship went on.", "koni sewu papa, mino."]
    chunks = [Chunk(f"{texts[k % 4]} {texts[k % 3]}", 0.2) for k in range(9)]
    found = []
    for batch in (1, 4, 8):
        told = Narration(speaker, chunks, rows_of(speaker), batch=batch, tries=2)
        found.append([(one.number, one.tries, one.doubt, len(one.samples)) for one in told])
    assert found[0] == found[1] == found[2]
    assert 0 < sum(doubt is not None for _, _, doubt, _ in found[0]) < len(chunks)
