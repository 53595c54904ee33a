"""Long recordings cut with their text, with a listener that knows what is said: every clip holds the words of its text.

The recordings are bursts of noise, a burst a word, with pauses between phrases."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_voxclone.audio.io import SAMPLE_RATE, AudioError, read_audio, write_wav
from mlx_voxclone.data import prepare as prepare_module
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.hearing.chapters import cut_chapter
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError
from mlx_voxclone.whisper.compare import units
from mlx_voxclone.whisper.hearing import Heard, Listener
from mlx_voxclone.whisper.words import Word

SYLLABLES = ["ba", "de", "fi", "go", "lu", "ma", "ne", "ri", "so", "tu", "wa", "ki"]
WORD, PAUSE = 0.3, 0.5  # seconds


def phrases(count: int, seed: int = 0) -> list[str]:
    """Sentences of five to nine words that nobody has seen."""
    rng = np.random.default_rng(seed)
    return [
        " ".join("".join(rng.choice(SYLLABLES, rng.integers(2, 5))) for _ in range(rng.integers(5, 10))).capitalize()
        + "."
        for _ in range(count)
    ]


class Recording:
    """A WAV in which phrases are said, and where each word of them is."""

    def __init__(self, path: Path, said: list[str], pause: float = PAUSE) -> None:
        rng = np.random.default_rng(list(path.name.encode()))
        self.path, self.words, parts, at = path, [], [np.zeros(SAMPLE_RATE // 2)], 0.5
        for phrase in said:
            for word in phrase.split():
                burst = rng.normal(0, 0.1, round(WORD * SAMPLE_RATE))
                burst[-240:] *= 0.05
                parts.append(burst)
                self.words.append(Word(word.strip(".,\"'"), at, at + WORD))
                at += WORD
            parts.append(rng.normal(0, 1e-5, round(pause * SAMPLE_RATE)))
            at += pause
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, np.concatenate(parts))
        self.samples = read_audio(path)


class Knowing:
    """A listener that knows what is said in some recordings; `wrong` replaces words by others."""

    model, is_multilingual, language = "known", True, "en"
    check_language = Listener.check_language

    def __init__(self, *recordings: Recording, wrong: dict[str, str] | None = None) -> None:
        self.recordings, self.wrong, self.calls = recordings, wrong or {}, 0

    def __call__(self, model: str, loaded=None) -> "Knowing":
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def hear(self, samples: np.ndarray, language: str | None = None) -> Heard:
        self.calls += 1
        middle = len(samples) // 2
        probe = samples[middle : middle + 50]
        for recording in self.recordings:
            for found in np.flatnonzero(recording.samples == probe[0]):
                if np.array_equal(recording.samples[found : found + 50], probe):
                    return self._heard(recording, (found - middle) / SAMPLE_RATE, len(samples) / SAMPLE_RATE, language)
        return Heard("", None, ())

    def _heard(self, recording: Recording, start: float, seconds: float, language: str | None) -> Heard:
        words = [
            Word(self.wrong.get(w.text, w.text), w.start - start, w.end - start)
            for w in recording.words
            if w.start - start > -0.01 and w.end - start < seconds + 0.01 and self.wrong.get(w.text, w.text)
        ]
        return Heard(" ".join(w.text for w in words), language or self.language, tuple(words))


def plain(text: str) -> str:
    return " ".join(text[a:b] for a, b in units(text)).lower()


def said_between(recording: Recording, start: float, end: float) -> str:
    inside = [w for w in recording.words if w.start > start - 0.02 and w.end < end + 0.02]
    touched = [w for w in recording.words if w.end > start + 0.02 and w.start < end - 0.02]
    assert inside == touched  # no word is cut
    return plain(" ".join(w.text for w in inside))


def cut(recording: Recording, text: str, listener=None, **options):
    listener = listener or Knowing(recording)
    return cut_chapter(recording.path, text, None, listener, PrepareOptions(**options), lambda items, n, what: items)


def check(recording: Recording, chapter) -> float:
    """Every clip holds what its text says; seconds that are kept."""
    assert len(chapter.texts) == len(chapter.plan.pieces)
    for (start, end), text in zip(chapter.plan.pieces, chapter.texts):
        assert plain(text) == said_between(recording, start, end)
        assert 1.0 <= end - start <= 20.0
    ends = [0.0, *(end for _, end in chapter.plan.pieces)]
    assert all(start >= before for (start, _), before in zip(chapter.plan.pieces, ends))
    return sum(end - start for start, end in chapter.plan.pieces)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return phrases(24)


@pytest.fixture(scope="module")
def recording(tmp_path_factory, said) -> Recording:
    return Recording(tmp_path_factory.mktemp("chapter") / "a.wav", said)


def test_all_of_a_chapter_is_kept_and_cut_behind_sentences(recording, said):
    chapter = cut(recording, " ".join(said))
    assert check(recording, chapter) > 0.85 * len(recording.samples) / SAMPLE_RATE
    assert " ".join(chapter.texts) == " ".join(said)  # to the letter
    assert all(text.endswith(".") for text in chapter.texts)
    assert (chapter.left, chapter.unused, chapter.language) == ([], 0, "en")


def test_a_page_that_the_text_lacks_is_left_out_with_its_time(recording, said):
    chapter = cut(recording, " ".join(said[:8] + said[14:]))
    check(recording, chapter)
    assert " ".join(chapter.texts) == " ".join(said[:8] + said[14:])
    assert [part.reason for part in chapter.left] == ["not-in-text"]
    first = sum(len(p.split()) for p in said[:8])
    last = first + sum(len(p.split()) for p in said[8:14])
    part = chapter.left[0]
    assert (part.start, part.end) == pytest.approx((recording.words[first].start, recording.words[last - 1].end))
    assert part.heard.startswith(recording.words[first].text)


def test_text_that_is_not_read_is_in_no_clip(recording, said):
    preface, page = phrases(6, 5), phrases(5, 6)
    chapter = cut(recording, " ".join(preface + said[:10] + page + said[10:] + preface))
    assert check(recording, chapter) > 0.85 * len(recording.samples) / SAMPLE_RATE
    assert " ".join(chapter.texts) == " ".join(said)
    assert chapter.unused == sum(len(p.split()) for p in [*preface, *page, *preface])


def test_an_announcement_that_is_not_in_the_text(tmp_path, said):
    announced = Recording(tmp_path / "b.wav", phrases(3, 9) + said)
    chapter = cut(announced, " ".join(said))
    check(announced, chapter)
    assert " ".join(chapter.texts) == " ".join(said)
    assert [part.reason for part in chapter.left] == ["not-in-text"]


def test_a_sentence_read_twice_costs_no_other(tmp_path, said):
    twice = Recording(tmp_path / "b.wav", [*said[:6], said[5], *said[6:]])
    chapter = cut(twice, " ".join(said))
    check(twice, chapter)
    assert " ".join(chapter.texts).replace(f"{said[5]} ", "") == " ".join(said[:5] + said[6:])


def test_misheard_words_stay_as_they_are_written(recording, said):
    words = recording.words
    wrong = {words[k].text: words[k].text[:-2] + "xa" for k in range(3, len(words), 7)}
    chapter = cut(recording, " ".join(said), Knowing(recording, wrong=wrong))
    assert check(recording, chapter) > 0.8 * len(recording.samples) / SAMPLE_RATE


def test_a_number_in_figures_is_no_error(recording, said):
    text = " ".join(said).replace(said[4].split()[2], "1,984").replace(said[9].split()[3], "37")
    chapter = cut(recording, text)
    kept = " ".join(chapter.texts)
    assert kept == text


def test_a_part_with_another_text_is_left_out(recording, said):
    other = phrases(4, 7)
    chapter = cut(recording, " ".join(said[:9] + other + said[13:]))
    check(recording, chapter)
    assert " ".join(chapter.texts) == " ".join(said[:9] + said[13:])
    assert not any(phrase in " ".join(chapter.texts) for phrase in other)
    assert [part.reason for part in chapter.left] == ["text-differs"]
    assert chapter.left[0].written.startswith(other[0].split()[0])


def test_speech_without_a_pause_is_not_cut_within(tmp_path):
    said = [" ".join(phrases(20)).replace(".", "")]
    with pytest.raises(AudioError, match="no part of its text fits") as caught:
        cut(Recording(tmp_path / "b.wav", said), said[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ".join(phrases(24, 77)), r"its text does not fit what is heard \(\d+ % of the words are in it\)"),
        pytest.param(
            "Это совсем другой текст. " * 9,
            "its text is written in cyrillic letters, but latin ones are heard",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_text_of_another_recording_is_refused(recording, text, message):
    with pytest.raises(AudioError, match=message) as caught:
        cut(recording, text)
    assert caught.value.reason == "text-differs"
    english = Knowing(recording)
    english.is_multilingual = False
    with pytest.raises(AudioError, match="known understands English alone, take a multilingual Whisper"):
        cut(recording, text, english)


def test_nothing_understood(recording, said):
    with pytest.raises(AudioError, match="no speech is recognised") as caught:
        cut(recording, " ".join(said), Knowing())
    assert caught.value.reason == "no-speech"


def test_a_window_in_another_language_is_heard_again(recording, said):
    class Unsure(Knowing):
        def hear(self, samples, language=None):
            heard = super().hear(samples, language)
            if language is None and self.calls == 2:
                return Heard("qu", "fr", (Word("qu", 1.0, 1.2),))
            return heard

    chapter = cut(recording, " ".join(said), Unsure(recording))
    assert (" ".join(chapter.texts), chapter.language) == (" ".join(said), "en")


def test_long_silence_is_not_heard(tmp_path):
    silence = Recording(tmp_path / "b.wav", ["Bade.", "Fine."], pause=50.0)
    listener = Knowing(silence)
    chapter = cut(silence, "Bade. Fine.", listener, min_seconds=0.2)
    assert listener.calls == 2
    assert chapter.texts == ["Bade.", "Fine."]


# --- in `prepare` ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prepare_cuts_chapters_where_a_whisper_is_named(tmp_path, said, monkeypatch):
    source = tmp_path / "books"
    long, short = Recording(source / "01.wav", said), Recording(source / "02.wav", said[:2])
    (source / "01.txt").write_text("\n".join(said[:8] + said[12:]))
    (source / "02.txt").write_text("\n".join(said[:2]))
    with_text = prepare(source, tmp_path / "without")
    line = json.loads((tmp_path / "without" / "rejected.jsonl").read_text())
    assert line["reason"] == "too-long"
    assert "name one with --whisper-model" in line["detail"]
    assert with_text.with_text == 1

    monkeypatch.setattr(prepare_module, "Listener", Knowing(long, short))
    report = prepare(source, tmp_path / "out", PrepareOptions(whisper_model="known", heldout=0.2))
    clips = sorted(PreparedData.load(tmp_path / "out").clips, key=lambda clip: (clip.source, clip.start))
    assert report.with_text == len(clips) > 5
    assert " ".join(c.text for c in clips if c.source == "01.wav") == " ".join(said[:8] + said[12:])
    for clip in clips:
        recording = long if clip.source == "01.wav" else short
        assert plain(clip.text) == said_between(recording, clip.start, clip.start + clip.seconds)
    assert {clip.language for clip in clips if clip.source == "01.wav"} == {"en"}
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["not-in-text"]
    assert lines[0]["audio"] == "01.wav"
    assert any(note.startswith("01.wav: cut with its text into") for note in report.notes)
    heard = [json.loads(line)["source"] for line in (tmp_path / "out" / "quality.jsonl").read_text().splitlines()]
    assert sorted(heard) == ["01.wav", "02.wav"]  # how good a chapter is, too
    with pytest.raises(DataError, match="language 'xx': unknown to Whisper"):
        prepare(source, tmp_path / "other", PrepareOptions(whisper_model="known", language="xx"))
    assert any(line.startswith("left out 1 recording or part (1 not-in-text)") for line in report.lines())
    assert prepare(source, tmp_path / "out", PrepareOptions(whisper_model="known", heldout=0.2)).reused


def test_an_english_whisper_for_german_is_refused_before_any_work(tmp_path, said, monkeypatch):
    recording = Recording(tmp_path / "books" / "01.wav", said)
    (tmp_path / "books" / "01.txt").write_text(" ".join(said))
    listener = Knowing(recording)
    listener.is_multilingual = False
    monkeypatch.setattr(prepare_module, "Listener", listener)
    options = PrepareOptions(whisper_model="tiny.en", language="de")
    with pytest.raises(DataError, match="English-only model, but the language is 'de'; take a multilingual") as caught:
        prepare(tmp_path / "books", tmp_path / "out", options)
    assert "\n" not in str(caught.value)
    assert listener.calls == 0
    assert not (tmp_path / "out").exists()
