"""Speaking, listening and measuring leave a training as it was, to the bit; so does every stop and resume."""

import mlx.core as mx
import pytest
from checkpoints_made import tensors
from kept_made import kept
from mlx.utils import tree_flatten
from speaker_made import codes, utterance
from tasks_data import MemoryData, clip, full_model, scratch_codec

from mlx_voxclone.adapters.lora import add_lora, quantise_backbone
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.evaluate.speakers import SpectralModel
from mlx_voxclone.files.run_log import LOG_NAME, read_log
from mlx_voxclone.model.blocks.layers import Attention, FeedForward
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.speaker import listening
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.listening import Limits, Listening, Sentence
from mlx_voxclone.train.speaker.preservation import KeptPairs
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask

STEPS = 3
SPEAKER = SpeakerSection(reference_seconds=[0.4, 0.8], max_seconds=2.0, preserve={"share": 0.5})
ENCODER = EncoderSection(
    crop_seconds=0.24,
    stft_sizes=[512, 128],
    discriminators={"enabled": True, "warmup_steps": 2, "channels": 4, "sizes": [128, 64]},
)
DATA = MemoryData([clip(0, 9000), clip(2, 7000)], [clip(4, 4000)])


@pytest.fixture(autouse=True, scope="module")
def _quickly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "FEWEST", 2)  # frames
        yield


@pytest.fixture(scope="module")
def speaker_task(miniature):
    """Adapters on half of what may have them (the other linears are plain), dropout, pairs to keep, and a judge."""
    prompt = SpeechTokenizer(Release(miniature).tokenizer_path).prompt
    heldout = utterance(4, 5)
    sentences = [Sentence("s", heldout.text, codes(5, 0), clip(4, 14000).wave, 3)]

    def build(bits=0):
        model = full_model(miniature)
        if bits:
            quantise_backbone(model, bits)
        add_lora(model, rank=4, alpha=8.0, targets=["wq", "w2"], layers=1, dropout=0.1)
        judge = Listening(sentences, SpectralModel(), None, Limits(), prompt)
        pairs = KeptPairs([kept(1), kept(2, 3)], [kept(3)], "these")
        train = [utterance(1, 6), utterance(2, 4), utterance(3, 9)]
        data = SpeakerData(train, [heldout], pairs)
        return SpeakerTask(AdaptedModel(model, prompt), data, SPEAKER, listening=judge)

    return build


@pytest.fixture(scope="module")
def encoder_task(miniature):
    return lambda: EncoderTask(scratch_codec(miniature), DATA, ENCODER, seed=1)


def settings(every: int, **changes) -> TrainSettings:
    usual = dict(steps=STEPS, batch_size=1, accumulate=2, learning_rate=1e-2, seed=5, save_every=1, keep=99)
    return TrainSettings(**usual | {"sample_every": every, "eval_every": every} | changes)


def norms(run_dir):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_log(run_dir / LOG_NAME) if "loss" in line]


def check_exact(build, tmp_path, stops, **changes):
    """A run that samples and measures at every step, one that never does, and ones that are stopped at `stops`."""
    Trainer(build(), settings(0, **changes), tmp_path / "silent", quiet=True).run()
    Trainer(build(), settings(1, **changes), tmp_path / "whole", quiet=True).run()
    samples = sorted(path.name for path in (tmp_path / "whole" / "samples").iterdir())
    assert samples == [f"step-{n}" for n in range(STEPS + 1)]
    assert len(norms(tmp_path / "silent")) == STEPS
    assert norms(tmp_path / "silent") == norms(tmp_path / "whole")
    for step in range(1, STEPS + 1):
        assert tensors(tmp_path / "silent", step) == tensors(tmp_path / "whole", step), step
    for step in stops:
        run_dir = tmp_path / f"stopped-{step}"
        Trainer(build(), settings(1, stop_after=step, **changes), run_dir, quiet=True).run()
        mx.random.seed(999)  # whatever another process does first
        Trainer(build(), settings(1, **changes), resume=run_dir, quiet=True).run()
        assert tensors(run_dir, STEPS) == tensors(tmp_path / "whole", STEPS), step
        assert norms(run_dir) == norms(tmp_path / "whole"), step


@pytest.mark.slow
def test_the_adapters_are_those_of_a_run_that_never_spoke(speaker_task, tmp_path):
    check_exact(speaker_task, tmp_path, [1])


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "precision"), [(8, "float32"), (4, "float32"), (0, "bf16")])
def test_quantised_and_in_bf16_too(speaker_task, tmp_path, bits, precision):
    check_exact(lambda: speaker_task(bits), tmp_path, range(1, STEPS), precision=precision)


@pytest.mark.slow
def test_the_encoder_is_that_of_a_run_that_wrote_no_samples(encoder_task, tmp_path):
    check_exact(encoder_task, tmp_path, [2])


def frozen(model) -> dict[str, int]:
    """The frozen arrays themselves: a compiled step keeps those that it was compiled with."""
    trained = dict(tree_flatten(model.trainable_parameters()))
    return {name: id(array) for name, array in tree_flatten(model.parameters()) if name not in trained}


@pytest.mark.slow
def test_speaking_replaces_no_array_and_joins_no_product(speaker_task, tmp_path):
    task = speaker_task()
    before = frozen(task.model)
    task.write_samples(tmp_path, 0)
    task.extra_metrics()
    task._listening = None
    task.write_samples(tmp_path, 1)
    assert frozen(task.model) == before
    parts = [part for part in task.model.modules() if isinstance(part, Attention | FeedForward)]
    assert len(parts) > 4
    assert all(part._one_product is None for part in parts)


def test_a_model_that_only_speaks_joins_its_products(miniature):
    speaker = Speaker.load(miniature)
    speaker.say("hello", speaker.voices[0], max_seconds=0.1)
    assert speaker.model.layers[0].attention._one_product is not None
