"""Usage of codes: written, read, drawn and shown; a histogram that is wrong is seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
from golden import RELEASE_PARAMS
from report_pages import PNG, Page, tone

from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.evaluate.code_usage import CODE_USAGE_FILE, CodeUsage, read_code_usage, write_code_usage
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.pairs.statistics import CodeStatistics
from mlx_voxclone.report.plots import png, usage_figure
from mlx_voxclone.report.run_report import write_report

CONFIG = replace(VoxtralConfig.from_dict(RELEASE_PARAMS).codec, semantic_codebook_size=50, acoustic_dim=3)
LEVELS = CONFIG.acoustic_codebook_size


def some_codes(seed=0, frames=(40, 7), config=CONFIG):
    rng = np.random.default_rng(seed)
    sizes = np.array([config.semantic_codebook_size, *[config.acoustic_codebook_size] * config.acoustic_dim])
    return [rng.integers(0, sizes[:, None], (len(sizes), n)).astype(np.int32) for n in frames]


def known_usage():
    """Encoder: 4 of 6 semantic codes at 8, 4, 2, 2 of 16; two acoustic codebooks of 3 levels. Prior: even."""
    encoder = CodeStatistics(np.array([2, 0, 8, 0, 4, 2]), np.array([[16, 0, 0], [4, 8, 4]]))
    return CodeUsage(encoder, CodeStatistics(np.full(6, 5), np.array([[10, 10, 10], [0, 30, 0]])))


# ---- the file --------------------------------------------------------------------------------------------------------


def test_what_was_counted_comes_back(tmp_path):
    codes, prior = some_codes(), CodeStatistics.from_codes(some_codes(1), CONFIG)
    path = write_code_usage(tmp_path / "step-3", codes, CONFIG, prior)
    assert path == tmp_path / "step-3" / CODE_USAGE_FILE
    usage, frames = read_code_usage(path), np.concatenate(codes, axis=1)
    assert usage.encoder.semantic.tolist() == [(frames[0] == k).sum() for k in range(50)]
    expected = [[(row == level).sum() for level in range(LEVELS)] for row in frames[1:]]
    assert usage.encoder.levels.tolist() == expected
    assert usage.encoder.semantic.dtype == usage.encoder.levels.dtype == np.int64
    assert np.array_equal(usage.prior.semantic, prior.semantic)
    assert np.array_equal(usage.prior.levels, prior.levels)


def test_a_second_file_replaces_the_first(tmp_path):
    write_code_usage(tmp_path, some_codes(), CONFIG, CodeStatistics.from_codes(some_codes(1), CONFIG))
    usage = read_code_usage(write_code_usage(tmp_path, iter(some_codes(2)), CONFIG))
    assert usage.prior is None
    assert np.array_equal(usage.encoder.semantic, CodeStatistics.from_codes(some_codes(2), CONFIG).semantic)


def test_codes_that_do_not_fit_are_not_written(tmp_path):
    codes = some_codes()
    codes[1][2, 3] = LEVELS
    with pytest.raises(ValueError, match=r"outside 0\.\.20"):
        write_code_usage(tmp_path, codes, CONFIG)
    with pytest.raises(ValueError, match="no codes"):
        write_code_usage(tmp_path, [], CONFIG)
    with pytest.raises(ValueError, match="no codes"):
        write_code_usage(tmp_path, [codes[0][:, :0]], CONFIG)
    assert not list(tmp_path.iterdir())


def test_a_prior_without_frames_is_none_and_one_of_other_codebooks_is_refused(tmp_path):
    empty = CodeStatistics.from_codes([], CONFIG)
    assert read_code_usage(write_code_usage(tmp_path, some_codes(), CONFIG, empty)).prior is None
    other = replace(CONFIG, acoustic_dim=4)
    prior = CodeStatistics.from_codes(some_codes(config=other), other)
    with pytest.raises(ValueError, match="other sizes"):
        write_code_usage(tmp_path, some_codes(), CONFIG, prior)


GOOD = {"semantic": np.array([1, 0, 3]), "levels": np.array([[1, 3], [4, 0]])}
DAMAGES = {
    "no levels": ({"levels": None}, "no tensor called levels"),
    "half a prior": ({"prior_semantic": np.array([1, 1, 1])}, "no tensor called prior_levels"),
    "other prior": ({"prior_semantic": np.array([1, 1]), "prior_levels": np.array([[2]])}, "other sizes"),
    "floats": ({"semantic": np.ones(3, np.float32)}, "semantic is F32 [3]"),
    "axes": ({"levels": np.ones((2, 2, 1), int)}, "levels is I64 [2, 2, 1]"),
    "empty": ({"semantic": np.zeros(0, int)}, "semantic is I64 [0]"),
    "negative": ({"levels": np.array([[1, 3], [5, -1]])}, "below 0"),
    "other frames": ({"levels": np.array([[1, 3], [1, 4]])}, "do not count the same frames"),
    "no frames": ({"semantic": np.zeros(3, int), "levels": np.zeros((2, 2), int)}, "do not count the same frames"),
}


def damaged(path, change):
    save_tensors(path, {k: v for k, v in (GOOD | change).items() if v is not None}, overwrite=True)


@pytest.mark.parametrize("name", DAMAGES)
def test_files_that_hold_something_else(name, tmp_path):
    change, expected = DAMAGES[name]
    damaged(tmp_path / "a.safetensors", {})
    assert read_code_usage(tmp_path / "a.safetensors").prior is None
    damaged(tmp_path / "a.safetensors", change)
    with pytest.raises(CheckpointError) as caught:
        read_code_usage(tmp_path / "a.safetensors")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the figure ------------------------------------------------------------------------------------------------------


def test_the_figure_draws_the_shares():
    ranks, encoder, prior, bar = usage_figure(known_usage()).axes
    ours, theirs = ranks.lines
    assert list(ours.get_xdata()) == [1, 2, 3, 4]
    assert np.allclose(ours.get_ydata(), [0.5, 0.25, 0.125, 0.125])
    assert np.allclose(theirs.get_ydata(), np.full(6, 1 / 6))
    assert (ranks.get_xscale(), ranks.get_yscale()) == ("log", "log")
    assert [t.get_text() for t in ranks.get_legend().get_texts()] == [
        "encoder: 4 of 6 in 16 frames",
        "pairs and presets: 6 of 6 in 30 frames",
    ]
    assert np.allclose(encoder.images[0].get_array(), [[1, 0, 0], [0.25, 0.5, 0.25]])
    assert np.allclose(prior.images[0].get_array(), [[1 / 3] * 3, [0, 1, 0]])
    assert [axis.images[0].get_clim() for axis in (encoder, prior)] == [(0, 1), (0, 1)]
    assert bar.get_ylabel() == "share of the frames"


def test_a_codebook_is_where_the_axes_say():
    """The first acoustic codebook is drawn at 1, at the top; level 0 at 0."""
    image = usage_figure(known_usage()).axes[1].images[0]
    left, right, bottom, top = image.get_extent()
    rows, columns = image.get_array().shape
    assert (left, right) == (-0.5, columns - 0.5)
    assert (top, bottom) == (0.5, rows + 0.5)
    assert image.origin == "upper"


def test_the_figure_without_a_prior():
    figure = usage_figure(CodeUsage(known_usage().encoder))
    assert len(figure.axes[0].lines) == 1
    assert [axis.get_title() for axis in figure.axes] == ["semantic codes", "acoustic levels: encoder", ""]
    collapsed = CodeStatistics(np.eye(1, 8192, dtype=np.int64)[0], np.eye(1, 21, dtype=np.int64).repeat(36, axis=0))
    assert png(usage_figure(CodeUsage(collapsed)), dpi=40).startswith(PNG)


# ---- the report ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Stages that have just begun: without curves, which take time to draw."""
    for stage in ("encoder", "speaker"):
        began(tmp_path / stage, stage)
    return tmp_path


def began(directory, task):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "log.jsonl").write_text(json.dumps({"event": "start", "step": 0, "task": task}) + "\n")


def test_the_report_shows_the_newest_counts(run):
    samples = run / "encoder" / "samples"
    for step, clips in ((0, 1), (9, 2), (10, 3)):
        write_code_usage(samples / f"step-{step}", some_codes()[:1] * clips, CONFIG)
    tone(samples / "step-11" / "clip-original.wav")
    page = Page(write_report(run))
    drawn = [name for name in page.images if name.startswith("use of the codes")]
    assert drawn == ["use of the codes: 120 frames of held-out clips, step 10"]
    assert page.images[drawn[0]]["viewbox"]
    assert page.words.count("Use of the codes") == 1, "the speaker's stage has no encoder"


def test_what_the_report_draws_is_what_was_written(run, monkeypatch):
    seen = []
    monkeypatch.setattr("mlx_voxclone.report.run_report.usage_figure", lambda u: seen.append(u) or usage_figure(u))
    prior = CodeStatistics.from_codes(some_codes(5), CONFIG)
    write_code_usage(run / "encoder" / "samples" / "step-4", some_codes(), CONFIG, prior)
    write_report(run)
    assert np.array_equal(seen[0].encoder.levels, CodeStatistics.from_codes(some_codes(), CONFIG).levels)
    assert np.array_equal(seen[0].prior.semantic, prior.semantic)


def test_a_run_of_the_encoder_alone(tmp_path):
    began(tmp_path, "encoder")
    assert "the codes of this encoder were not counted" in Page(write_report(tmp_path)).words
    began(tmp_path, "speaker")
    assert "Use of the codes" not in Page(write_report(tmp_path)).words
    (tmp_path / "summary.json").write_text('{"task": "encoder"}')
    assert "the codes of this encoder were not counted" in Page(write_report(tmp_path)).words


@pytest.mark.parametrize("name", [*DAMAGES, "truncated", "no file", "directory"])
def test_counts_that_are_damaged_are_said_to_be(name, run):
    samples = run / "encoder" / "samples"
    write_code_usage(samples / "step-1", some_codes(), CONFIG)
    path = write_code_usage(samples / "step-2", some_codes(), CONFIG)
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    elif name == "no file":
        path.write_bytes(b"")
    elif name == "directory":
        path.unlink()
        path.mkdir()
    else:
        damaged(path, DAMAGES[name][0])
    page = Page(write_report(run))
    assert "The counts of codes cannot be read: " in page.words
    assert not page.images
    assert "Stage: speaker" in page.words, "the report goes on"


def test_what_is_damaged_is_escaped_too(tmp_path):
    run = tmp_path / "<img src=x>&"
    began(run / "encoder", "encoder")
    path = write_code_usage(run / "encoder" / "samples" / "step-1", some_codes(), CONFIG)
    path.write_bytes(b"{}")
    source = write_report(run).read_text()
    assert "cannot be read: " in source
    assert "&lt;img src=x&gt;&amp;" in source
    assert "<img src=x" not in source
