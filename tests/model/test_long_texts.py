"""Texts and voices of any length: refused by their tokens, or read in pieces with the memory of a short one."""

import subprocess
import sys
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from golden import relative_error
from kept_made import kept
from speaker_made import SECTION, codes, utterance
from tasks_data import full_model

from mlx_voxclone.adapters.lora import add_lora
from mlx_voxclone.bake.voice_sources import VoiceMaker
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.voices import EMBEDDING
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.text_checks import can_be_said
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.model import generation, voxtral
from mlx_voxclone.model.blocks import layers
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.pairs.make import Sentence, check_context
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.train import checks
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.preservation import Kept, KeptPairs
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask

# --- pieces -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(miniature):
    return full_model(miniature)


def test_codes_are_looked_up_in_parts(model, monkeypatch):
    """The rows of all codebooks of all frames of a batch at once would be more numbers than a kernel counts."""
    table, seen = model.mm_audio_embeddings.audio_codebook_embeddings.embeddings, []
    codes = mx.random.randint(2, 20, (3, 7, 37), key=mx.random.key(0))
    whole = model.embed_codes(codes)
    monkeypatch.setattr(type(table), "__call__", lambda self, ids: seen.append(ids.shape) or self.weight[ids])
    monkeypatch.setattr(voxtral, "SUM_FRAMES", 8)
    assert mx.array_equal(model.embed_codes(codes), whole)
    assert seen == [(8, 37), (8, 37), (5, 37)]
    assert model.embed_codes(codes[:0]).shape == (0, 7, whole.shape[-1])


def test_no_batch_needs_more_numbers_than_a_kernel_counts():
    """At the release's width; 27 sequences of 704 positions were too many."""
    config = VoxtralConfig.from_dict(params_json(PRESETS["full"], {}))
    assert voxtral.SUM_FRAMES * config.codec.n_codebooks * config.backbone.dim < 2**31


def prompt_of(model, length: int) -> mx.array:
    return mx.random.normal((1, length, model.config.backbone.dim), key=mx.random.key(length))


def read(model, prompt):
    cache = model.new_cache()
    hidden = generation.read_prompt(model, prompt, cache)
    return [hidden] + [x[:, :, : layer.offset] for layer in cache for x in (layer.keys, layer.values)]


@pytest.mark.parametrize("length", [1, 7, 8, 50])
def test_a_prompt_that_is_read_in_pieces_is_the_same_prompt(model, length, monkeypatch):
    prompt = prompt_of(model, length)
    want = read(model, prompt)
    monkeypatch.setattr(generation, "READ_AT_ONCE", 7)
    monkeypatch.setattr(layers, "MAX_SCORES", 100)
    for ours, theirs in zip(read(model, prompt), want, strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("start", [0, 5, 39])
def test_attention_in_pieces_is_attention(model, start, monkeypatch):
    """Of a whole sequence, and of its last positions alone."""
    x = mx.concatenate([prompt_of(model, 40), prompt_of(model, 41)[:, :40]])
    want = model.hidden_states(x, start=start)
    monkeypatch.setattr(layers, "MAX_SCORES", 1000)
    assert relative_error(model.hidden_states(x, start=start), want) < 1e-5


def test_it_says_the_same(model, monkeypatch):
    prompt = prompt_of(model, 30)
    want = list(generation.generate(model, prompt, max_frames=4))
    monkeypatch.setattr(generation, "READ_AT_ONCE", 7)
    monkeypatch.setattr(layers, "MAX_SCORES", 100)
    assert np.array_equal(list(generation.generate(model, prompt, max_frames=4)), want)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square_of_the_length(model, monkeypatch):
    """Beside the cache: 4,000 positions at once would be 256 MB of scores."""
    monkeypatch.setattr(layers, "MAX_SCORES", 1 << 20)
    prompt = prompt_of(model, 4000)
    mx.eval(prompt, model.parameters())
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    cache = model.new_cache()
    mx.eval(generation.read_prompt(model, prompt, cache))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)
    assert mx.get_peak_memory() - before < 2 * held + 60e6


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_as_many_tokens_as_the_context_has_room_for(miniature):
    tokenizer = SpeechTokenizer(miniature / "tekken.json", context=100)
    text = "q" * (100 - 5 - 10 - 20)  # a token each
    assert len(tokenizer.prompt(text, 10, 20)) == 80
    with pytest.raises(DataError, match=r"too long: it has 66 tokens, at most 65 fit: with a voice of 10 rows and up"):
        tokenizer.prompt(text + "q", 10, 20)
    with pytest.raises(DataError, match=r"voice of 76 rows and up to 20 frames of speech exceed the context of 100,"):
        tokenizer.prompt("q", 76, 20)
    assert len(SpeechTokenizer(miniature / "tekken.json").prompt("q" * 1000, 3)) == 1008


def test_a_whole_library_is_refused_before_it_is_counted(miniature, monkeypatch):
    tokenizer = SpeechTokenizer(miniature / "tekken.json", context=1000)
    longest = tokenizer._longest
    assert longest == max(len(tokenizer._tekken.id_to_byte_piece(i)) for i in range(40, 320))
    monkeypatch.setattr(tokenizer, "encode", lambda text: pytest.fail("counted"))
    with pytest.raises(DataError, match=r"it has at least \d+ tokens, at most 992 fit"):
        tokenizer.prompt("ü" * (1000 * longest), 3)


def test_a_speaker_says_beforehand_what_it_would_refuse(miniature):
    speaker = Speaker.load(miniature)
    rows = speaker.voice_rows(speaker.voices[0])
    assert speaker.prompt("hello", rows) == speaker.tokenizer.prompt("hello", len(rows))
    for text in ("", "q" * 65_000):
        with pytest.raises(DataError):
            speaker.prompt(text, rows)
    with pytest.raises(DataError, match="is too long"):  # before the clip is looked at
        speaker.stream("q" * 65_000, reference=np.zeros(24_000, np.float32))


def test_a_run_refuses_its_sentences_before_anything_is_trained(miniature):
    release, book = Release(miniature), "q" * 65_000
    with pytest.raises(DataError, match=r"^say: sentence 2 \('qqq.*it has 65000 tokens"):
        checks._check_sentences(SimpleNamespace(say=["hello", book]), release)
    checks._check_sentences(SimpleNamespace(say=["hello", "q" * 60_000]), release)
    listed = [Sentence(0, "hello", None, "a", 0), Sentence(1, book, None, "a", 1)]
    with pytest.raises(DataError, match=r"^sentence 'qqq.*it has 65000 tokens"):
        check_context(SpeechTokenizer.of(release), release.config, listed, {"a": mx.zeros((400, 64))}, 30.0)


def test_a_voice_that_leaves_no_room_is_refused(miniature, tmp_path):
    release = Release(miniature)
    most = release.config.backbone.max_seq_len // 2
    rows = mx.ones((most + 1, release.config.backbone.dim), mx.bfloat16)
    save_tensors(tmp_path / "long.safetensors", {EMBEDDING: rows})
    save_tensors(tmp_path / "codes.safetensors", {"codes": mx.zeros((37, most), mx.int32)})
    match = rf"a voice of {most + 1} rows, {most} are possible: half of the model's context"
    with pytest.raises(CheckpointError, match=match):
        release.voice_of_file(tmp_path / "long.safetensors")
    for name in ("long", "codes"):
        with pytest.raises(CheckpointError, match=match):
            VoiceMaker(release).make(tmp_path / f"{name}.safetensors")
    save_tensors(tmp_path / "longest.safetensors", {EMBEDDING: rows[1:]})
    assert release.voice_of_file(tmp_path / "longest.safetensors").shape[0] == most


# --- what is learnt from ----------------------------------------------------------------------------------------------


def test_signs_without_letters_are_a_text_too():
    assert can_be_said("Wait ... what?! (no) - never.", 1.0)
    assert not can_be_said("!" * 60_000, 5.0)
    assert not can_be_said("a" * 301, 5.0)
    assert can_be_said("a" * 300, 5.0)


def test_a_training_refuses_a_text_that_its_clip_cannot_hold(miniature):
    release = Release(miniature)
    model = full_model(miniature)
    add_lora(model, rank=2, alpha=2.0)
    prompt = SpeechTokenizer.of(release).prompt
    adapted = AdaptedModel(model, prompt)
    book = utterance(2)
    object.__setattr__(book, "text", "?" * 60_000)
    with pytest.raises(
        DataError, match=r"clip u2: its text is too long: it has 60000 characters, at most 148 fit into"
    ):
        SpeakerTask(adapted, SpeakerData([utterance(1), book], [utterance(3)]), SECTION)
    pairs = KeptPairs([kept(1)], [Kept("pair 9", "!" * 60_000, codes(5, 1), kept(1).rows)], "these")
    with pytest.raises(DataError, match="clip pair 9: its text is too long"):
        SpeakerTask(adapted, SpeakerData([utterance(1)], [utterance(3)], pairs), SECTION)


PEAK = """
import re, resource, sys
from mlx_voxclone.speech.speaker import Speaker
speaker = Speaker.load(sys.argv[1])
assert speaker.say("q" * 20_000, speaker.voices[0], max_seconds=0.4).frames
if sys.platform == "darwin":
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
else:  # on Linux that one has the peak of the process that has started this one
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]))
"""


@pytest.mark.slow
def test_a_text_of_20_000_letters_takes_little_memory(miniature):
    """All at once it would ask for more than 6 GB."""
    command = [sys.executable, "-c", PEAK, str(miniature)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 1.2e9
