"""`voxclone pairs` keeps exactly what the model says alone, whatever the batch and however often it stopped."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from commands import tree

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.model import generation
from mlx_voxclone.pairs import make
from mlx_voxclone.pairs.make import sentences
from mlx_voxclone.pairs.prompts import load_prompts
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands"]
pytestmark = pytest.mark.usefixtures("small_shards")
SECONDS = 1.0  # the miniature, whose weights are random, ends before for about half of the sentences
PER_VOICE = 4  # of three voices: 12 sentences in three shards


@pytest.fixture(scope="module")
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "SHARD_SENTENCES", 5)
        yield


def arguments(model, output, *more) -> list[str]:
    argv = ["pairs", "--model", model, "--output", output, "--per-voice", PER_VOICE, "--max-seconds", SECONDS, *more]
    return [str(a) for a in argv]


@pytest.fixture(scope="module")
def made(miniature, tmp_path_factory):
    """Pairs of the miniature, by one undisturbed run. Read it only."""
    output = tmp_path_factory.mktemp("pairs") / "out"
    assert voxclone(arguments(miniature, output)) == 0
    return output


def lines_of(directory) -> list[dict]:
    return [json.loads(line) for line in (directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_every_pair_is_what_the_model_says_alone(made, miniature):
    speaker, lines = Speaker.load(miniature), lines_of(made)
    kept = {line["id"]: line for line in lines}
    assert 2 <= len(kept) < 12
    for sentence in sentences(speaker.voices, None, PER_VOICE, 0):
        alone = speaker.say(sentence.text, sentence.voice, seed=sentence.seed, max_seconds=SECONDS)
        name = f"{sentence.number:06d}"
        assert (name in kept) == (alone.ended and alone.frames > 0)
        if name not in kept:
            continue
        line = kept[name]
        codes = TensorFile(made / line["codes"]).numpy(name)
        assert codes.dtype == np.int16
        np.testing.assert_array_equal(codes, alone.codes)
        audio, rate = soundfile.read(made / line["audio"])
        assert rate == 24_000
        assert soundfile.info(made / line["audio"]).subtype == "PCM_24"
        np.testing.assert_allclose(audio, alone.samples, atol=1.01 / 2**24)
        assert (line["text"], line["voice"], line["language"]) == (sentence.text, sentence.voice, "en")
        assert len(audio) == line["frames"] * 1920


def test_the_directory_holds_nothing_else(made):
    lines = lines_of(made)
    files = {line["audio"] for line in lines} | {"audio", "manifest.jsonl", "settings.json"}
    assert set(tree(made)) == files | {f"pairs-{i:05d}.safetensors" for i in range(3)}
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)


def test_the_summary_counts_every_sentence(miniature, tmp_path, capsys):
    assert voxclone(arguments(miniature, tmp_path / "out")) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out'}\n"
    lines = lines_of(tmp_path / "out")
    assert f"kept {len(lines)} of 12 sentences, " in captured.err
    rejected = captured.err.split("rejected: ")[1].split(";")[0]
    assert sum(int(part.split()[0]) for part in rejected.split(", ")) == 12 - len(lines)
    assert "runaway" in rejected
    seconds = sum(line["frames"] for line in lines) / 12.5
    assert f" sentences, {format_seconds(seconds)} of speech; " in captured.err


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.slow
def test_the_batch_changes_no_byte(made, miniature, tmp_path, batch):
    assert voxclone(arguments(miniature, tmp_path / "out", "--batch", batch)) == 0
    assert tree(tmp_path / "out") == tree(made)


def test_another_seed_says_it_otherwise(made, miniature, tmp_path):
    assert voxclone(arguments(miniature, tmp_path / "out", "--seed", 1)) == 0
    texts = [[line["text"] for line in lines_of(directory)] for directory in (made, tmp_path / "out")]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("stop", [1, 3, 4])
@pytest.mark.slow
def test_an_interrupted_run_goes_on_after_its_last_shard(made, miniature, tmp_path, monkeypatch, capsys, stop):
    """Batches of 2 in shards of 5: three calls for each of two shards, one for the last."""
    calls, generate = [], generation.generate_batch

    def stopping(*args, **options):
        calls.append(1)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        return generate(*args, **options)

    monkeypatch.setattr(generation, "generate_batch", stopping)
    output = tmp_path / "out"
    assert voxclone(arguments(miniature, output, "--batch", 2)) == 130
    complete = stop // 3
    assert len(list(output.glob("pairs-*.safetensors"))) == complete
    if complete:
        assert {line["codes"] for line in lines_of(output)} == {f"pairs-{i:05d}.safetensors" for i in range(complete)}
    calls.clear()
    calls.extend([1] * 100)
    assert voxclone(arguments(miniature, output, "--batch", 2)) == 0
    assert len(calls) - 100 == 7 - 3 * complete
    assert tree(output) == tree(made)
    assert voxclone(arguments(miniature, output)) == 0  # nothing left to do
    assert len(calls) - 100 == 7 - 3 * complete
    assert tree(output) == tree(made)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--per-voice", "5"], "per_voice changed"),
        (["--seed", "2"], "seed changed"),
        (["--max-seconds", "2"], "max_seconds changed"),
        (["--augment"], "augment changed"),
        (["--voices", "casual_male"], "voices changed"),
        (["--languages", "fr"], "languages changed"),
        (["--texts", "texts.txt"], "texts changed"),
        (["--model", "other"], "model changed"),
    ],
)
def test_other_settings_are_refused_by_name(refused, made, miniature, tmp_path, monkeypatch, options, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("Something else entirely.\n")
    shutil.copytree(miniature, tmp_path / "other")
    tensors = mx.load(str(tmp_path / "other/consolidated.safetensors"))
    tensors["norm.weight"] = tensors["norm.weight"] * 1.5
    mx.eval(tensors)
    save_tensors(tmp_path / "other/consolidated.safetensors", tensors, {"format": "pt"}, overwrite=True)
    refused(arguments(miniature, made, *options), str(made), name, unchanged=(made,))


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["--voices", "nobody"], ["no voice called 'nobody'", "casual_female, casual_male"]),
        (["--languages", "xx"], ["language 'xx'", "en, fr, de"]),
        (["--languages", "en", "--texts", "x"], ["not allowed with"]),
        (["--texts", "gone.txt"], ["gone.txt: no such file"]),
        (["--texts", "empty.txt"], ["empty.txt: holds no sentence"]),
        (["--texts", "latin.txt"], ["latin.txt:1: not UTF-8"]),
        (["--texts", "long.txt"], ["is too long", "the context of 65536"]),
        (["--output", "folder"], ["folder: exists and holds no pairs"]),
        (["--per-voice", "0"], ["--per-voice must be at least 1"]),
        (["--batch", "0"], ["--batch must be at least 1"]),
        (["--max-seconds", "nan"], ["--max-seconds"]),
        (["--max-seconds", "1e9"], ["exceed the context"]),
        (["--model", "gone"], ["gone: no such directory"]),
    ],
)
def test_refusals(refused, miniature, tmp_path, monkeypatch, options, texts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generation, "generate_batch", None)
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "latin.txt").write_bytes("déjà\n".encode("latin-1"))
    (tmp_path / "long.txt").write_text("papa " * 70_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine.txt").write_text("mine")
    refused(arguments(miniature, tmp_path / "out", *options), *texts)


def test_damaged_results_are_not_gone_on_with(refused, made, miniature, tmp_path):
    output = shutil.copytree(made, tmp_path / "out")
    first = output / lines_of(output)[0]["audio"]
    content = first.read_bytes()
    first.unlink()
    refused(arguments(miniature, output), f"audio/{first.name} is missing", "delete the shard and run again")
    first.write_bytes(content)
    shard = output / "pairs-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    refused(arguments(miniature, output), "pairs-00001.safetensors: truncated")
    shard.unlink()
    assert voxclone(arguments(miniature, output)) == 0
    assert tree(output) == tree(made)
    (output / "settings.json").write_text("{")
    refused(arguments(miniature, output), "settings.json: not readable")


def test_texts_of_the_user_by_chosen_voices(miniature, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\ufeffOne more.\n\n  Zwei mehr.  \n", encoding="utf-8")
    options = ["--texts", tmp_path / "texts.txt", "--voices", "Casual_Male", "casual_male", "--quiet"]
    assert voxclone(arguments(miniature, tmp_path / "out", *options)) == 0
    assert capsys.readouterr().err == ""
    lines = lines_of(tmp_path / "out")
    assert lines
    assert {line["text"] for line in lines} <= {"One more.", "Zwei mehr."}
    assert {(line["voice"], line["language"]) for line in lines} == {("casual_male", None)}


def test_nothing_but_runaways_is_a_result_too(miniature, tmp_path, capsys, monkeypatch):
    generate = generation.generate_batch
    monkeypatch.setattr(generation, "generate_batch", lambda *a, **k: generate(*a, **k | {"max_frames": 0}))
    assert voxclone(arguments(miniature, tmp_path / "out")) == 0
    assert "kept 0 of 12 sentences, 0.00 s of speech; rejected: 12 runaway" in capsys.readouterr().err
    assert lines_of(tmp_path / "out") == []


def test_audio_beyond_full_scale_is_kept_as_floats(miniature, tmp_path):
    loud = shutil.copytree(miniature, tmp_path / "loud")
    tensors = mx.load(str(loud / "consolidated.safetensors"))
    name = "audio_tokenizer.output_proj.conv.parametrizations.weight.original0"
    tensors[name] = tensors[name] * 40
    mx.eval(tensors)
    save_tensors(loud / "consolidated.safetensors", tensors, {"format": "pt"}, overwrite=True)
    assert voxclone(arguments(loud, tmp_path / "out", "--voices", "casual_male")) == 0
    wavs = [line["audio"] for line in lines_of(tmp_path / "out") if line["audio"].endswith(".wav")]
    assert wavs
    assert all(np.abs(soundfile.read(tmp_path / "out" / wav)[0]).max() > 1 for wav in wavs)


@pytest.mark.slow
def test_augmentation_is_of_the_audio_only(made, miniature, tmp_path):
    output = tmp_path / "out"
    assert voxclone(arguments(miniature, output, "--augment")) == 0
    own, clean = lines_of(output), lines_of(made)
    second = {line.pop("augmented"): line["audio"] for line in own}
    assert own == clean
    before, after = tree(made), tree(output)
    assert set(after) - set(before) == set(second)
    for line in clean:
        assert after[line["audio"]] == before[line["audio"]]
        codes = [TensorFile(directory / line["codes"]).numpy(line["id"]) for directory in (made, output)]
        np.testing.assert_array_equal(*codes)
    for recorded, audio in second.items():
        a, b = soundfile.read(output / recorded)[0], soundfile.read(output / audio)[0]
        assert len(a) == len(b)
        assert not np.array_equal(a, b)
    assert voxclone(arguments(miniature, tmp_path / "again", "--augment", "--batch", 3)) == 0
    assert tree(tmp_path / "again") == after


# --- what is said -----------------------------------------------------------------------------------------------------


def test_voices_speak_their_own_language_in_turn():
    listed = sentences(["fr_female", "casual_male", "ann_b"], None, 3, 0)
    assert [s.number for s in listed] == list(range(9))
    assert [s.voice for s in listed] == ["fr_female", "casual_male", "ann_b"] * 3
    assert [s.language for s in listed] == ["fr", "en", "en"] * 3
    assert {s.text for s in listed if s.language == "fr"} <= {text for _, text in load_prompts(["fr"])}
    assert len({s.seed for s in listed}) == 9
    assert listed == sentences(["fr_female", "casual_male", "ann_b"], None, 3, 0)


def test_more_sentences_than_texts_are_said_again_with_other_noise():
    texts = [("en", "One."), ("de", "Zwei."), ("en", "Three.")]
    listed = sentences(["a", "b"], texts, 7, 4)
    for voice in "ab":
        own = [s for s in listed if s.voice == voice]
        assert sorted((s.language, s.text) for s in own[:3]) == sorted(texts)
        assert sorted((s.language, s.text) for s in own[3:6]) == sorted(texts)
        assert len({s.seed for s in own}) == 7
    assert sentences(["b"], texts, 7, 4) != sentences(["b"], texts, 7, 5)
