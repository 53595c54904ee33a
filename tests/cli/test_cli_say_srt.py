"""`voxclone say --srt`: cues of a long text and of a short one, after an interruption too."""

import re
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.speech import subtitles
from mlx_voxclone.speech.to_files.growing_wav import growing_wav
from mlx_voxclone.whisper.compare import units
from mlx_voxclone.whisper.words import Word

pytest_plugins = ["commands"]
pytestmark = pytest.mark.usefixtures("no_fsync")
SENTENCE = "The ship went on through the fog, and nobody saw a light for a long time."


def cues(path) -> list[tuple[float, float, str]]:
    found = re.findall(r"(\d+)\n(\S+) --> (\S+)\n(.*)\n\n", path.read_text(encoding="utf-8"))
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))

    def seconds(time: str) -> float:
        hours, minutes, rest = time.replace(",", ".").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)

    return [(seconds(start), seconds(end), text) for _, start, end, text in found]


@pytest.fixture
def argv(miniature, tmp_path):
    return ["say", "--model", str(miniature), "--voice", "casual_male", "--output", str(tmp_path / "a.wav")]


@pytest.mark.slow
def test_a_cue_per_chunk(argv, tmp_path):
    assert voxclone([*argv, "--text", f"{SENTENCE} " * 4, "--pause", "0.5", "--srt", str(tmp_path / "a.srt")]) == 0
    samples, rate = soundfile.read(tmp_path / "a.wav")
    found = cues(tmp_path / "a.srt")
    assert [text for _, _, text in found] == [SENTENCE] * 4
    assert found[0][0] == 0
    for (start, end, _), (after, _, _) in pairwise(found):
        assert after - end == pytest.approx(0.5, abs=0.0011)
        assert start < end
        assert np.abs(samples[int((end + 0.1) * rate) : int(after * rate)]).max() < 1e-3  # the pause
    assert found[3][1] == pytest.approx(len(samples) / rate - 1.0, abs=0.0011)  # behind a paragraph, twice as much


def test_words_of_a_short_text_by_a_whisper(argv, tmp_path, monkeypatch):
    class Listener:
        is_multilingual = True

        def __init__(self, model):
            assert model == "tiny"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def check_language(self, language):
            assert language == "de"

        def words(self, samples, text, language):
            assert language == "de"
            step = len(samples) / 24000 / 3
            return [Word(text[a:b], k * step, (k + 1) * step) for k, (a, b) in enumerate(units(text))]

    monkeypatch.setattr(subtitles, "Listener", Listener)
    more = ["--text", "Eins, zwei, drei.", "--max-seconds", "0.8", "--language", "de", "--whisper-model", "tiny"]
    assert voxclone([*argv, *more, "--srt", str(tmp_path / "a.srt")]) == 0
    found = cues(tmp_path / "a.srt")
    assert [text for _, _, text in found] == ["Eins,", "zwei,", "drei."]
    assert found[-1][1] == pytest.approx(len(soundfile.read(tmp_path / "a.wav")[0]) / 24000, abs=0.0011)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--whisper-model", "x"], "--whisper-model is for --verify and --srt"),
        (["--srt", "subtitles.txt"], r"name a file that ends in \.srt"),
        (["--srt", "nowhere/a.srt"], "no such directory"),
    ],
)
def test_refusals(argv, capsys, more, message):
    assert voxclone([*argv, "--text", "Eins.", *more]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_where_chunks_end_is_known_after_an_interruption(tmp_path):
    path, identity = tmp_path / "a.wav", {"text": "x"}

    def interrupted() -> None:
        with growing_wav(path, identity, resume=False) as wav:
            wav.append(np.zeros(2400))
            wav.append(np.zeros(4800))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with growing_wav(path, identity, resume=True) as wav:
        assert wav.ends == [0.1, 0.3]
        wav.append(np.zeros(240))
        assert wav.ends == [0.1, 0.3, 0.31]
