"""`prepare --check-texts`: clips whose text is not what is heard are left out and listed, the others stay."""

import json

import pytest
from test_chapters import Knowing, Recording, phrases

from mlx_voxclone.data import prepare as prepare_module
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError


@pytest.fixture
def listener(tmp_path, monkeypatch) -> Knowing:
    """Ten recordings of a phrase each; what they say is known to it."""
    said = phrases(10, 3)
    recordings = []
    for k, phrase in enumerate(said):
        recordings.append(Recording(tmp_path / "r" / f"{k}.wav", [phrase]))
        (tmp_path / "r" / f"{k}.txt").write_text(phrase)
    listener = Clips(*recordings)
    listener.said = said
    monkeypatch.setattr(prepare_module, "Listener", listener)
    return listener


class Clips(Knowing):
    """Hears clips, which are trimmed and rounded to 24 bits, by their loudest sample."""

    def hear(self, samples, language=None):
        self.calls += 1
        for recording in self.recordings:
            if abs(abs(recording.samples).max() - abs(samples).max()) < 1e-6:
                return self._heard(recording, 0.0, 1e9, language)
        raise AssertionError("a clip of no recording")


OPTIONS = PrepareOptions(check_texts=True, whisper_model="known", heldout=0.2)


def test_right_texts_stay(listener, tmp_path):
    report = prepare(tmp_path / "r", tmp_path / "out", OPTIONS)
    assert (report.with_text, report.rejected, listener.calls) == (10, {}, 10)
    assert not [note for note in report.notes if note.startswith("texts:")]
    lines = [json.loads(line) for line in (tmp_path / "out" / "texts.jsonl").read_text().splitlines()]
    assert [(line["error"], line["kept"]) for line in lines] == [(0.0, True)] * 10


def test_wrong_texts_are_left_out_and_listed(listener, tmp_path):
    said = listener.said
    (tmp_path / "r" / "2.txt").write_text(said[7])
    (tmp_path / "r" / "5.txt").write_text("Это совсем другой текст.")
    slip = said[8].replace(said[8].split()[1], "xenophon")
    (tmp_path / "r" / "8.txt").write_text(slip)
    report = prepare(tmp_path / "r", tmp_path / "out", OPTIONS)
    assert report.rejected == {"text-differs": 2}
    assert {clip.id for clip in PreparedData.load(tmp_path / "out").clips} == set("01346789")
    assert len(list((tmp_path / "out" / "clips").iterdir())) == 8
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {line["audio"] for line in rejected} == {"2.wav", "5.wav"}
    assert any("written in cyrillic letters, heard in latin" in line["detail"] for line in rejected)
    texts = [note for note in report.notes if note.startswith("texts:")]
    assert texts[0].startswith("texts: 2 clips are left out of 10")
    assert len(texts) == 2
    assert texts[1].startswith(f"texts: listen to 8: text {slip[:10]!r}"[:-1])
    worst = json.loads((tmp_path / "out" / "texts.jsonl").read_text().splitlines()[0])
    assert (worst["kept"], worst["error"] > 0.35) == (False, True)


def test_all_wrong_is_one_line(listener, tmp_path):
    for k in range(10):
        (tmp_path / "r" / f"{k}.txt").write_text(phrases(1, 50 + k)[0])
    with pytest.raises(DataError, match=r"no usable recording \(10 text-differs\)") as caught:
        prepare(tmp_path / "r", tmp_path / "out", OPTIONS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_prepared_data_without_the_check_is_the_same_as_before(listener, tmp_path):
    """The summary of earlier versions has no such key."""
    prepare(tmp_path / "r", tmp_path / "out", PrepareOptions(heldout=0.2))
    options = json.loads((tmp_path / "out" / "summary.json").read_text())["identity"]["options"]
    assert not {"check_texts", "whisper_model"} & set(options)
    assert prepare(tmp_path / "r", tmp_path / "out", PrepareOptions(heldout=0.2)).reused
    with pytest.raises(DataError, match="check_texts, whisper_model changed"):
        prepare(tmp_path / "r", tmp_path / "out", OPTIONS)


def test_a_whisper_that_is_named_and_not_needed_is_not_looked_at(listener, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "Listener", None)
    options = PrepareOptions(whisper_model="nowhere", heldout=0.2)
    assert prepare(tmp_path / "r", tmp_path / "out", options).with_text == 10
