"""Machinery of the recovery benchmark: what trainers get, which steps are compared, what logs and checkpoints say."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from tasks_data import scratch_codec

from benchmarks.recovery import corpus as corpora
from benchmarks.recovery import materials, plots, tables, training
from benchmarks.recovery import run as recovery
from benchmarks.recovery.baseline import one_of_each
from benchmarks.recovery.gates import SEEN_REAL, UNSEEN_REAL
from benchmarks.recovery.recipes import (
    COMMON,
    COMMON_CONSTANTS,
    CONSTANTS,
    LAST_RATE,
    MAIN,
    RECIPES,
    SCALES,
    Materials,
    Recipe,
    recipe_config,
)
from benchmarks.recovery.teacher import heard_teacher, taught, unit_teacher
from benchmarks.recovery.training import STEPS, TIME
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.yaml_files import dotted
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.files import SpokenPair, write_pairs
from mlx_voxclone.settings.config import schema_keys
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.encoder import inputs as encoder_inputs
from mlx_voxclone.train.saved.state import RunState, save_checkpoint

# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipes", "a,z"], "no recipe z; there are a, b"),
        (["--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--seconds", "nan"], "--seconds must be at least 1; got nan"),
        (["--steps", "3"], "--steps must be at least 8; got 3"),
        (["--corpus", "nowhere"], "no corpus of the recovery benchmark"),
    ],
)
def test_mistakes_end_in_one_line(options, message, tmp_path, capsys):
    assert recovery.main(["--output", str(tmp_path / "out"), "--quick", "--device", "cpu", *options]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_results_of_different_benchmarks_are_not_mixed(tmp_path):
    recovery._settle(tmp_path / "settings.json", {"steps": 10, "codec": "x"})
    recovery._settle(tmp_path / "settings.json", {"steps": 10, "codec": "x"})
    with pytest.raises(DataError, match="with another codec; choose another output"):
        recovery._settle(tmp_path / "settings.json", {"steps": 10, "codec": "y"})


# --- materials -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    small = corpora.CorpusSize(4, 2, 3, 2, 0.8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(corpora.SIZES, "quick", small)
        return corpora.build_corpus(tmp_path_factory.mktemp("recovery") / "corpus", "quick", seed=0)


def test_the_trainer_hears_the_training_speakers_as_they_are(corpus, tmp_path):
    data = materials.prepare_speech(corpus, tmp_path / "speech")
    ours = {clip.id: clip for clip in corpus.split("train")}
    assert {clip.id for clip in data.clips} == set(ours)
    assert {clip.speaker for clip in data.heldout} <= {clip.speaker for clip in data.train}
    assert 0 < len(data.heldout) < len(data.train)
    for clip in (data.train[0], data.heldout[0]):
        assert (clip.read() == ours[clip.id].read()).all()
    assert materials.prepare_speech(corpus, tmp_path / "speech").fingerprint() == data.fingerprint()


def test_pairs_are_of_half_of_the_speakers_and_decode_to_their_audio(corpus, miniature, tmp_path):
    hidden, release = scratch_codec(miniature), Release(miniature)
    count = materials.make_pairs(hidden, release, corpus, tmp_path / "pairs", 0.5, seed=0)
    data = PairData.load(
        tmp_path / "pairs", release.config.codec, decoder_digest=materials.decoder_digest(release.tensors)
    )
    speakers = {pair.voice for pair in data.pairs}
    assert len(speakers) == 2
    assert speakers < {clip.speaker for clip in corpus.split("train")}
    assert count == len(data.pairs) == 2 * 3
    assert data.heldout
    pair = data.pairs[0]
    clip = next(clip for clip in corpus.clips if clip.id == pair.text)
    assert (pair.codes == hidden.audio_codes(clip.read())).all()
    np.testing.assert_allclose(pair.read(), hidden.decode_audio(pair.codes), atol=2**-22)
    assert pair.read(augmented=True).shape == pair.read().shape
    assert (pair.read(augmented=True) != pair.read()).any()
    assert materials.make_pairs(hidden, release, corpus, tmp_path / "pairs", 0.5, seed=0) == 0


def test_moved_pairs_are_beside_the_others(corpus, miniature, tmp_path):
    hidden, release = scratch_codec(miniature), Release(miniature)
    rng, made = np.random.default_rng(0), []
    for k, low in enumerate((0, 0, 12)):  # an untrained encoder gives all voices the same codes
        codes = np.stack([rng.integers(low, low + 8, 6) for _ in range(37)]).astype(np.int32)
        made.append(SpokenPair(f"{k:06d}", codes, hidden.decode_audio(codes), text="", voice=f"voice-{low}"))
    (tmp_path / "pairs").mkdir()
    count = write_pairs(tmp_path / "pairs", made, {"codec": materials.decoder_digest(release.tensors)})
    materials.move(hidden, tmp_path / "pairs", tmp_path / "moved", seed=0)
    places = [tmp_path / "pairs", tmp_path / "moved"]
    both = PairData.of_model(places, release, heldout=0.25)
    assert count < len(both.pairs) <= (1 + materials.MOVES) * count
    copy = next(pair for pair in both.pairs if pair.is_moved)
    np.testing.assert_allclose(copy.read(), hidden.decode_audio(copy.codes), atol=2**-22)
    config = configuration("s-moved", places=Materials(Path("stock"), Path("speech"), places[0], moved=places[1]))
    assert config.pairs.path == places


def test_the_oracle_has_the_recordings_themselves(corpus, miniature, tmp_path):
    hidden, release = scratch_codec(miniature), Release(miniature)
    materials.make_pairs(hidden, release, corpus, tmp_path / "pairs", 0.5, seed=0, recorded=True)
    data = PairData.load(tmp_path / "pairs", release.config.codec)
    clips = {clip.id: clip for clip in corpus.clips}
    for pair in data.pairs:
        samples = clips[pair.text].read()
        np.testing.assert_allclose(pair.read()[: len(samples)], samples, atol=2**-22)
        assert (pair.codes == hidden.audio_codes(samples)).all()
        assert not pair.read()[len(samples) :].any()


def test_what_is_taught_are_the_spoken_units(corpus, miniature, tmp_path):
    hidden, release = scratch_codec(miniature), Release(miniature)
    materials.make_pairs(hidden, release, corpus, tmp_path / "pairs", 0.5, seed=0)
    pair = PairData.load(tmp_path / "pairs", release.config.codec).pairs[0]
    speech = materials.prepare_speech(corpus, tmp_path / "speech")
    with taught(unit_teacher(corpus)):
        teacher = encoder_inputs.whisper_teacher()
    clip = next(clip for clip in corpus.clips if clip.id == pair.text)
    recorded = next(c for c in speech.clips if c.id == clip.id)
    for source in (pair, recorded):
        assert (teacher.states(source, 1920, 3).argmax(axis=1) == clip.units[1:4]).all()
        assert teacher.states(source, 1920, 3).sum() == 3
    silent = replace(corpus, clips=[replace(c, track=None) for c in corpus.clips])
    with taught(unit_teacher(silent)):
        assert encoder_inputs.whisper_teacher().states(recorded, 0, 3) is None
    assert encoder_inputs.whisper_teacher.__module__ == encoder_inputs.__name__


def test_what_is_heard_is_taught_for_recordings_and_the_pairs_made_of_them(corpus, miniature, tmp_path):
    hidden, release = scratch_codec(miniature), Release(miniature)
    materials.make_pairs(hidden, release, corpus, tmp_path / "pairs", 0.5, seed=0)
    pair = PairData.load(tmp_path / "pairs", release.config.codec).pairs[0]
    recorded = next(c for c in materials.prepare_speech(corpus, tmp_path / "speech").clips if c.id == pair.text)
    rows = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float16)
    heard = SimpleNamespace(dim=7, identity="a", of=lambda clip: rows if clip.id == pair.text else None)
    teacher = heard_teacher(corpus, heard)
    for source in (pair, recorded):
        np.testing.assert_array_equal(teacher.states(source, 1920, 3), rows[1:4])
    assert teacher.states(replace(recorded, id="another"), 0, 3) is None
    assert (teacher.dim, teacher.identity) == (7, "a")


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.5, 2), (1.0, 4)])
def test_pairs_take_a_share_of_the_speakers(corpus, share, expected):
    assert len(materials.pair_speakers(corpus, share)) == expected


def test_scored_clips_are_held_out_and_of_all_speakers(corpus):
    clips = materials.scored_clips(corpus, 1e9)
    assert {clip.id for clip in clips} == {clip.id for clip in corpus.split("heldout")}
    some = materials.scored_clips(corpus, max(len(clip.read()) for clip in clips) / 24000 + 0.01)
    assert len(some) < len(clips)
    assert len({clip.speaker for clip in some}) == 2  # a second one before any has two clips


def test_clips_of_a_speaker_who_was_heard_are_a_kind_of_their_own(corpus):
    clips = corpus.split("heldout")
    heard = replace(clips[0], kind="real", speaker=corpus.split("train")[0].speaker)
    other = replace(clips[1], kind="real")
    found = materials.scored_clips(replace(corpus, clips=[*corpus.split("train"), heard, other]), 1e9)
    assert {clip.id: clip.kind for clip in found} == {heard.id: SEEN_REAL, other.id: UNSEEN_REAL}


def test_the_baseline_takes_one_clip_of_each_kind_first(corpus):
    clips = corpus.split("heldout")
    clips = [*clips[:3], replace(clips[3], kind="real")]
    assert [clip.kind for clip in one_of_each(clips, 3)] == ["synthetic", "real", "synthetic"]


# --- recipes -------------------------------------------------------------------------------------------------------


def configuration(name, places=None, **settings):
    places = places or Materials(Path("stock"), Path("speech"), Path("pairs"), moved=Path("moved"))
    return recipe_config(RECIPES[name], SCALES["quick"], places, **{"seed": 1, "steps": 40, **settings}).encoder


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_valid_configuration_whose_rate_falls_until_the_end(name):
    section, recipe = configuration(name, save_every=10), RECIPES[name]
    assert (section.train.steps, section.train.min_lr_ratio) == (40, LAST_RATE)
    assert section.train.keep >= 40 // 10
    assert section.pairs.alone_steps == round(40 * recipe.alone)


def test_recipes_say_all_that_the_encoder_section_knows():
    """Else a change of a default would change what is compared."""
    said = {*dotted(COMMON), *(f"encoder.{key}" for recipe in RECIPES.values() for key in recipe.changes)}
    said |= {"encoder.crop_seconds", "encoder.pairs.path"}  # always given
    said |= {
        f"encoder.pairs.{key}" for key in ("per_voice", "moves", "texts", "max_seconds", "batch")
    }  # of automatic ones
    judges = ("encoder.discriminators.", "encoder.distillation.", "encoder.train.", "encoder.refine.")
    leaves = {key for key in schema_keys() if key.startswith("encoder.") and not key.startswith(judges)}
    leaves -= {key.rpartition(".")[0] for key in leaves} | {name.removesuffix(".") for name in judges}
    assert leaves <= said


def test_the_main_recipes_differ_in_what_they_are_named_after():
    a, b, c, d = (configuration(name) for name in MAIN)
    assert not a.pairs.path
    assert all(x.pairs.path == [Path("pairs")] for x in (b, c, d))
    assert (b.losses.sound, b.pairs.share) == (0, 1.0)
    assert [x.discriminators.enabled for x in (a, b, c, d)] == [False, False, False, True]
    assert a.losses == c.losses == d.losses
    assert min(c.losses.sound, c.losses.semantic_code, c.losses.acoustic_code) > 0
    assert all(x.train == a.train for x in (b, c, d))


def test_a_recipe_has_the_products_constants_for_itself_and_others_say_all_of_them():
    before = {name: getattr(*place) for name, place in CONSTANTS.items()}
    assert set(COMMON_CONSTANTS) == set(CONSTANTS)
    for name, recipe in RECIPES.items():
        with recipe.in_force():
            found = {name: getattr(*place) for name, place in CONSTANTS.items()}
        assert found == (COMMON_CONSTANTS if recipe.common else before) | dict(recipe.constants), name
    assert RECIPES["c-phases"].constants == {"dispersed": 0.0}
    assert {name: getattr(*place) for name, place in CONSTANTS.items()} == before


# --- which steps are compared ----------------------------------------------------------------------------------------

SECONDS = st.floats(0.01, 2.0)


@given(
    steps=st.integers(8, 4000),
    rates=st.lists(st.tuples(SECONDS, SECONDS), min_size=2, max_size=4),
    alone=st.sampled_from([0.0, 0.25, 0.5]),
)
@example(steps=14, rates=[(1.0, 0.25), (1.0, 0.0625)], alone=0.25)  # 3.5 of the steps have pairs alone: 4
def test_a_plan_compares_at_equal_steps_and_equal_time(steps, rates, alone):
    recipes = {str(k): Recipe("", alone=alone if k else 0.0) for k in range(len(rates))}
    plan = training.Plan(steps, seconds_per_step={str(k): list(rate) for k, rate in enumerate(rates)})
    plan.settle(recipes)
    lengths = {name: plan.length(name, recipe, TIME) for name, recipe in recipes.items()}
    assert min(lengths.values()) == steps  # of the slowest
    for name, recipe in recipes.items():
        slack = 1.01 * max(plan.seconds_per_step[name])
        assert plan.seconds_at(name, recipe, lengths[name]) == pytest.approx(plan.seconds, abs=slack)
        assert plan.length(name, recipe, STEPS) == steps


@pytest.mark.parametrize("length", [2, 3, 100, 301])
def test_scored_checkpoints_are_saved_and_the_last_one_is_the_end(length):
    scored, every = training.scored_steps(length, TIME), training.save_every(length, TIME)
    assert scored[-1] == length
    assert all(step % every == 0 for step in scored[:-1])
    assert len(scored) == min(3, length)
    assert training.scored_steps(length, STEPS) == [length]


def test_time_before_and_after_the_pairs_alone():
    plan, recipe = training.Plan(100, 60.0, {"x": [0.1, 0.2]}), Recipe("", alone=0.5)
    assert plan.length("x", recipe, TIME) == 400
    assert [plan.seconds_at("x", recipe, 400, step) for step in (100, 200, 300)] == pytest.approx([10, 20, 40])


def test_a_recipe_added_later_is_compared_at_the_same_time():
    plan, recipe = training.Plan(100, seconds_per_step={"a": [0.1, 0.1], "c": [0.2, 0.2]}), Recipe("")
    plan.settle({"a": recipe, "c": recipe})
    plan.seconds_per_step["slow"] = [0.5, 0.5]
    plan.settle({"a": recipe, "c": recipe, "slow": recipe})
    assert plan.seconds == pytest.approx(20)
    assert [plan.length(name, recipe, TIME) for name in ("a", "c", "slow")] == [200, 100, 40]


def test_a_plan_is_kept_and_not_mixed_with_another(tmp_path):
    plan = training.Plan(100, 20.0, {"a": [0.1, 0.2]})
    plan.save(tmp_path / "plan.json")
    assert training.Plan.load(tmp_path / "plan.json", 100) == plan
    with pytest.raises(DataError, match="made for 100 steps, not 50"):
        training.Plan.load(tmp_path / "plan.json", 50)


# --- logs and checkpoints --------------------------------------------------------------------------------------------


def test_time_of_training_leaves_out_evaluations_checkpoints_and_pauses(tmp_path):
    lines = [
        {"event": "start", "step": 0},
        {"event": "eval", "step": 0},
        {"step": 1, "seconds": 50.0},  # the first, after an evaluation
        {"step": 2, "seconds": 51.0},
        {"step": 3, "seconds": 53.0},
        {"event": "checkpoint", "step": 3},
        {"step": 4, "seconds": 95.0},
        {"step": 5, "seconds": 96.0},
        {"step": 6, "seconds": 99.0},  # done again after the resume
        {"event": "resume", "step": 5},
        {"step": 6, "seconds": 196.0},
        {"event": "skip", "step": 7},
        {"step": 8, "seconds": 199.0},
        {"event": "end", "step": 8},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert training.step_seconds(tmp_path).tolist() == [1, 1, 2, 1, 1, 1, 1, 1]
    (tmp_path / "log.jsonl").write_text(json.dumps(lines[0]))
    with pytest.raises(DataError, match="times no step"):
        training.step_seconds(tmp_path)


def test_a_checkpoints_encoder_is_found_among_all_that_trains(miniature, tmp_path):
    codec = scratch_codec(miniature, seed=3)
    own = {k: v for k, v in tree_flatten(codec.parameters()) if k.startswith(("input_proj.", "encoder_blocks."))}
    beside = {"projection.weight": mx.ones((2, 2)), "log_temperature": mx.array(1.0)}
    parameters = {f"codec.{name}": value for name, value in own.items()} | beside
    schedule = {"kind": "", "total_steps": 8}
    settings = TrainSettings(steps=8).as_dict()
    identity = {"task": "", "metric": "", "settings": settings, "schedule": schedule, "fingerprint": ""}
    for step in (4, 8):
        save_checkpoint(tmp_path, RunState(step=step, skipped=step), parameters, {"x": mx.array(0)}, identity)
    found = training.checkpoint_codec(Release(miniature), tmp_path, 4)
    baked = load_model(Release(miniature), parts=["codec"], encoder_file=tmp_path / "encoder-4.safetensors")
    wave = np.random.default_rng(0).standard_normal(5000).astype(np.float32) / 10
    assert (found.audio_codes(wave) == baked.audio_tokenizer.audio_codes(wave)).all()
    for name, value in tree_flatten(found.parameters()):
        if name in own:
            assert (np.array(value) == np.array(own[name].astype(mx.bfloat16).astype(mx.float32))).all(), name
    with pytest.raises(DataError, match="no checkpoint of step 6; there are 4, 8"):
        training.checkpoint_codec(Release(miniature), tmp_path, 6)
    training.forget_checkpoints(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-8"]


# --- tables and plots ------------------------------------------------------------------------------------------------


def part(semantic, level_error=2.0):
    four = {"semantic": semantic, "units": 50.0, "level_error": level_error, "level_exact": 20.0}
    more = {"unit_error": None, "mel": 0.6, "stft": 0.1, "codes_used": 60.0, "code_entropy": 4.0, "level_entropy": 3.0}
    real = {**four, **more, "mel_ratio": 1.2, "stft_ratio": 1.1}
    chance = {**four, "semantic": 2.0}
    own = {**more, **four, "semantic": 77.0}
    base = {"clips": 2, "frames": 30, "real": real, "decoded": four, "hidden": own}
    return base | {"chance": chance, "chance_decoded": chance}


def results():
    def run(name, seed, equal, steps, *semantic):
        points = [
            {
                "step": step,
                "seconds": step / 10,
                "score": {"pooled": part(s), "kinds": {"x": part(s) | {"pooled": True}}},
            }
            for step, s in zip(steps, semantic, strict=True)
        ]
        return {"recipe": name, "title": f"T{name}", "seed": seed, "equal": equal, "points": points}

    runs = [run("a", 0, STEPS, [100], 10), run("a", 0, TIME, [50, 120, 200], 5, 10, 20)]
    runs += [run("c", 0, STEPS, [100], 30), run("c", 0, TIME, [100], 31)]
    runs += [run("a", 1, STEPS, [100], 11), run("a", 1, TIME, [50, 120, 200], 5, 11, 24)]
    return {"gates": {"faults": []}, "runs": runs, "baseline": None}


def test_tables_give_mean_and_spread_at_equal_steps_and_equal_time():
    text = tables.markdown(results())
    steps = text.split("## Original audio, equal steps")[1].split("##")[0]
    time = text.split("## Original audio, equal time")[1].split("##")[0]
    assert "| a: Ta | 100 | 10 | 10.5 (10.0..11.0) |" in steps
    assert "| c: Tc | 100 | 10 | 30.0 |" in steps
    assert "| a: Ta | 200 | 20 | 22.0 (20.0..24.0) |" in time
    assert "| the hidden encoder | | | 100.0 |" in time
    assert "| the hidden encoder again | | | 77.0 |" in text.split("## Decoded audio")[1]
    assert "| chance | | | 2.0 |" in time
    assert "passed" in text
    assert "NOT passed" in tables.markdown(results() | {"gates": {"faults": ["x"]}})


def test_what_was_not_compared_has_no_table_and_no_plot(tmp_path):
    alone = results() | {"runs": [run for run in results()["runs"] if run["equal"] == STEPS]}
    assert "equal time" not in tables.markdown(alone)
    assert "## x: 2 clips, 30 frames, original audio, equal steps" in tables.markdown(alone)
    assert [path.name for path in plots.write_plots(alone, tmp_path)] == ["equal-steps.png"]


@pytest.mark.slow
def test_plots_show_every_recipe_and_mark_the_hidden_encoder(tmp_path):
    figure = plots.over_time(results())
    decoded = next(axis for axis in figure.axes if "semantic %, decoded" in axis.get_title())
    lines = {line.get_label(): line for line in decoded.lines}
    assert lines["a"].get_xdata().tolist() == [5, 12, 20]
    assert lines["a"].get_ydata().tolist() == [5, 10.5, 22]
    assert any(set(line.get_ydata()) == {77.0} for line in decoded.lines)
    bars = plots.bars(results(), TIME).axes[0]
    assert [bar.get_height() for bar in bars.patches] == [22, 31]
    written = plots.write_plots(results(), tmp_path)
    assert [path.read_bytes()[:4] for path in written] == [b"\x89PNG"] * 3
