"""The recovery benchmark in one command: `python -m benchmarks.recovery.run --output DIR [--quick]`; see README.md.

corpus -> codec -> gates -> pairs -> training of every recipe and seed -> scores -> tables and plots. All of it is kept
in DIR: the same command again goes on where it stopped, and further recipes or seeds are added to what is there.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from benchmarks.recovery import baseline, materials, plots, tables, training
from benchmarks.recovery.codec import ENCODER, GATES, STOCK, load_codec, train_codec
from benchmarks.recovery.corpus import Corpus, CorpusClip, build_corpus
from benchmarks.recovery.gates import SEEN_REAL
from benchmarks.recovery.heard import HeardStates
from benchmarks.recovery.recipes import MAIN, RECIPES, SCALES, Materials, Recipe, Scale, recipe_config
from benchmarks.recovery.score import POOLED, Reference, UnitClassifier
from benchmarks.recovery.teacher import heard_teacher, taught, unit_teacher
from mlx_voxclone.checkpoint.digests import codec_digest
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.cli.common import Parser, entry
from mlx_voxclone.cli.options import add_shared
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.process.device import set_device

SETTINGS, PLAN, SCORES, RESULTS = "settings.json", "plan.json", "scores.json", "results.json"
DESCRIPTION = """\
Hide the encoder of a small codec, train others by several recipes, and say which comes nearest to it. Interrupted, it
goes on when given the same command."""


@dataclass
class Bench:
    """Everything that runs have in common."""

    home: Path
    scale: Scale
    materials: Materials
    corpus: Corpus
    reference: Reference
    plan: training.Plan
    compared: Sequence[str]
    heard: HeardStates | None


@entry
def main(argv: list[str]) -> int:
    parser = Parser("recovery", DESCRIPTION, prog="python -m benchmarks.recovery.run")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where everything goes")
    parser.add_argument(
        "--quick", action="store_true", help="minutes instead of hours: small codec, few steps, one seed"
    )
    parser.add_argument("--codec", type=Path, metavar="DIR", help="use this trained codec instead of training one")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="use this corpus: the one the codec was trained on")
    parser.add_argument("--speech", type=Path, metavar="DIR", help="real speech for the full corpus")
    parser.add_argument("--recipes", default=",".join(MAIN), metavar="A,B", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs per recipe (default: 1 with --quick, else 3)")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps compared (default: 200 or 300)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="training time compared (default: what the slowest needs, or 180)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="items per step (default: 8)")
    parser.add_argument(
        "--equal", choices=(training.STEPS, training.TIME), help="compare at equal steps or equal time alone"
    )
    parser.add_argument("--ignore-gates", action="store_true", help="go on with a codec that fails its gates")
    parser.add_argument(
        "--whisper", type=Path, metavar="DIR", help="mlx-whisper directory, for recipes that a Whisper teaches"
    )
    parser.add_argument("--heard", type=Path, metavar="DIR", help="where its states are kept (default: OUTPUT/heard)")
    parser.add_argument(
        "--unheard", nargs="*", default=[], metavar="SPEAKER", help="speakers whose language it does not know"
    )
    add_shared(parser, "--device")
    options = parser.parse_args(argv)
    set_device(options.device)
    names = list(dict.fromkeys(options.recipes.split(",")))
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"--recipes: no recipe {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    if any(RECIPES[name].heard for name in names) and not options.whisper:
        parser.error("--whisper is needed: a recipe is taught by one")
    scale = _scale(parser, options)
    results = benchmark(
        options.output,
        "quick" if options.quick else "full",
        scale,
        names,
        codec=options.codec,
        corpus=options.corpus,
        speech=options.speech,
        compared=(options.equal,) if options.equal else (training.STEPS, training.TIME),
        ignore_gates=options.ignore_gates,
        hear=options.whisper and partial(_hear, options),
    )
    print(tables.markdown(results))
    return 0


def _scale(parser: Parser, options) -> Scale:
    """The sizes, with what was asked for otherwise."""
    given = {name: getattr(options, name) for name in ("seeds", "steps", "seconds", "batch_size")}
    for name, least in (("seeds", 1), ("steps", 8), ("seconds", 1), ("batch_size", 1)):
        if given[name] is not None and not given[name] >= least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}; got {given[name]}")
    scale = SCALES["quick" if options.quick else "full"]
    return replace(scale, **{name: value for name, value in given.items() if value is not None})


def benchmark(
    home: Path,
    size: str,
    scale: Scale,
    names: Sequence[str],
    *,
    codec: Path | None = None,
    corpus: Path | None = None,
    speech: Path | None = None,
    compared: Sequence[str] = (training.STEPS, training.TIME),
    ignore_gates: bool = False,
    hear: Callable[[Corpus], HeardStates] | None = None,
) -> dict:
    """Everything; the content of `results.json`.

    Args:
        home: output directory, new or of an earlier call with the same `size`, `scale` (but for `seeds`) and inputs.
        size: of corpus and codec, `quick` or `full`, where these are not given.
        scale: of trainings and scores.
        names: recipes; the first call's set the time that is compared.
        codec, corpus: directories that `train_codec` and `build_corpus` wrote; None: made in `home`.
        speech: see `build_corpus`.
        compared: at equal steps, at equal time, or both.
        ignore_gates: go on with a codec that does not pass.
        hear: gives a Whisper's states of the corpus, for recipes that have it as a teacher.

    Raises:
        DataError: another benchmark in `home`; a codec that fails its gates.
    """
    home.mkdir(parents=True, exist_ok=True)
    speakers = _corpus(home, size, corpus, speech)
    codec = _codec(home, size, codec, speakers)
    gates = json.loads((codec / GATES).read_text(encoding="utf-8"))
    if gates["faults"] and not ignore_gates:
        raise DataError(f"{codec} fails its gates, so nothing learnt from it would count: {'; '.join(gates['faults'])}")
    stock = Release(codec / STOCK)
    _settle(
        home / SETTINGS,
        {"size": size, **asdict(replace(scale, seeds=0)), "codec": codec_digest(stock, codec / ENCODER)},
    )
    hidden, *classifier = load_codec(codec)
    units = UnitClassifier(*classifier)
    say("materials: recordings and pairs")
    inputs = Materials(stock.path, home / "speech", home / "pairs", home / "oracle", home / "moved")
    materials.prepare_speech(speakers, inputs.speech)
    materials.make_pairs(hidden, stock, speakers, inputs.pairs, scale.pair_speakers, seed=0)
    if any(RECIPES[name].oracle for name in names):
        materials.make_pairs(hidden, stock, speakers, inputs.oracle, scale.pair_speakers, seed=0, recorded=True)
    if any(RECIPES[name].moved for name in names):
        materials.move(hidden, inputs.pairs, inputs.moved, seed=0)
    clips = materials.scored_clips(speakers, scale.score_seconds)
    say(f"reference: the hidden encoder on {len(clips)} held-out clips")
    reference = Reference(hidden, units, clips, apart={SEEN_REAL})
    plan = training.Plan.load(home / PLAN, scale.steps)
    plan.seconds = plan.seconds or scale.seconds
    heard = hear(speakers) if hear and any(RECIPES[name].heard for name in names) else None
    bench = Bench(home, scale, inputs, speakers, reference, plan, compared, heard)
    if training.TIME in compared:
        _probe(bench, names)
    results = {"corpus": speakers.about, "gates": gates, "settings": {"size": size, **asdict(scale)}}
    results |= {"plan": asdict(bench.plan), "runs": list(_runs(bench, names))}
    results["baseline"] = _baseline(home / "baseline.json", scale.baseline_clips, hidden, units, clips)
    write_text_atomic(home / RESULTS, json.dumps(results, indent=1) + "\n")
    write_text_atomic(home / "results.md", tables.markdown(results) + "\n")
    for path in [home / RESULTS, *plots.write_plots(results, home)]:
        say(f"written: {path}")
    return results


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def _hear(options, corpus: Corpus) -> HeardStates:
    say("whisper: states of the real speakers' recordings")
    return HeardStates(corpus, options.whisper, options.heard or options.output / "heard", options.unheard)


# --- what is compared ------------------------------------------------------------------------------------------------


def _corpus(home: Path, size: str, given: Path | None, speech: Path | None) -> Corpus:
    directory = given or home / "corpus"
    if given is None and not directory.exists():
        say(f"corpus: making {directory}")
        return build_corpus(directory, size, seed=0, speech=speech)
    return Corpus.load(directory)


def _codec(home: Path, size: str, given: Path | None, corpus: Corpus) -> Path:
    directory = given or home / "codec"
    if given is None and not (directory / GATES).exists():
        say(f"codec: training {directory}")
        train_codec(corpus, directory, size, seed=0)
        mx.clear_cache()
    return directory


def _settle(path: Path, settings: dict) -> None:
    """Keep what the results depend on, or refuse to mix them with others."""
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := sorted(key for key in settings if before.get(key) != settings[key]):
            raise DataError(
                f"{path.parent}: holds a benchmark with another {', '.join(changed)}; choose another output"
            )
    write_text_atomic(path, json.dumps(settings, indent=1) + "\n")


# --- training and scoring --------------------------------------------------------------------------------------------


def _probe(bench: Bench, names: Sequence[str]) -> None:
    """Time a few steps of every recipe that has not been timed yet."""
    plan = bench.plan
    for name in names:
        if name in plan.seconds_per_step:
            continue
        recipe = RECIPES[name]
        half = replace(recipe, alone=0.5 if recipe.alone else 0.0)
        config = recipe_config(half, bench.scale, bench.materials, seed=0, steps=training.PROBE_STEPS)
        with _teacher(bench, recipe), recipe.in_force():
            plan.seconds_per_step[name] = training.probe(
                config, bench.home / "runs" / f"probe-{os.getpid()}", halves=recipe.alone > 0
            )
        say(f"probe: {name} takes {', '.join(f'{1000 * s:.0f}' for s in plan.seconds_per_step[name])} ms per step")
    plan.settle({name: RECIPES[name] for name in names})
    plan.save(bench.home / PLAN)


def _runs(bench: Bench, names: Sequence[str]) -> Iterator[dict]:
    """Train and score: all recipes with the first seed, then with the second, and so on."""
    todo = [(name, seed, what) for seed in range(bench.scale.seeds) for name in names for what in bench.compared]
    scoring = 0.0  # seconds per scored encoder, as it turns out
    for number, (name, seed, what) in enumerate(todo):
        title = f"{name}, seed {seed}, equal {what}"
        say(f"{title}: {number + 1} of {len(todo)}{_left(bench, todo[number:], scoring)}")
        run, took = _run(bench, name, seed, what)
        scoring = took or scoring
        say(f"{title}: {_brief(run['points'][-1]['score'][POOLED])}")
        yield run


def _left(bench: Bench, todo: Sequence[tuple[str, int, str]], scoring: float) -> str:
    """An estimate of what is left, if all of these recipes have been timed."""
    seconds = 0.0
    for name, seed, what in todo:
        if name not in bench.plan.seconds_per_step:
            return ""
        if not (_home(bench, name, seed, what) / SCORES).is_file():
            length = bench.plan.length(name, RECIPES[name], what)
            seconds += bench.plan.seconds_at(name, RECIPES[name], length)
            seconds += scoring * len(training.scored_steps(length, what))
    return f"; about {seconds / 60:.0f} min left"


def _brief(score: dict) -> str:
    parts = {"original": score["real"], "decoded": score["decoded"]}
    return "; ".join(f"{k} {part['semantic']:.1f} %, {part['level_error']:.2f} levels" for k, part in parts.items())


def _home(bench: Bench, name: str, seed: int, what: str) -> Path:
    """Directory of a training. One that takes as many steps in the compared time as are compared serves both."""
    if what == training.TIME and bench.plan.length(name, RECIPES[name], what) == bench.plan.steps:
        what = training.STEPS
    return bench.home / "runs" / f"{name}-{seed}-{what}"


def _teacher(bench: Bench, recipe: Recipe) -> AbstractContextManager:
    if recipe.heard:
        return taught(heard_teacher(bench.corpus, bench.heard))
    return taught(unit_teacher(bench.corpus)) if recipe.taught else nullcontext()


def _run(bench: Bench, name: str, seed: int, what: str) -> tuple[dict, float]:
    """One training of a recipe, and the seconds that scoring one encoder took (0: it was there already)."""
    recipe, plan, home = RECIPES[name], bench.plan, _home(bench, name, seed, what)
    about = {"recipe": name, "title": recipe.title, "seed": seed, "equal": what}
    path, length = home / SCORES, plan.length(name, recipe, what)
    if path.is_file():
        return about | {"points": json.loads(path.read_text(encoding="utf-8"))}, 0.0
    every = training.save_every(length, what)
    config = recipe_config(recipe, bench.scale, bench.materials, seed=seed, steps=length, save_every=every)
    with _teacher(bench, recipe), recipe.in_force():
        training.train(config, home)
    seconds, began = training.step_seconds(home), time.perf_counter()
    points = []
    timed = name in plan.seconds_per_step
    for step in training.scored_steps(length, what):
        measured = float(seconds[:step].sum())
        codec = training.checkpoint_codec(Release(bench.materials.stock), home, step)
        points.append(
            {
                "step": step,
                "seconds": plan.seconds_at(name, recipe, length, step) if timed else measured,
                "measured_seconds": measured,
                "score": bench.reference.score(codec),
            }
        )
        mx.clear_cache()
    write_text_atomic(path, json.dumps(points, indent=1) + "\n")
    training.forget_checkpoints(home)
    return about | {"points": points}, (time.perf_counter() - began) / len(points)


def _baseline(path: Path, count: int, hidden: Codec, units: UnitClassifier, clips: Sequence[CorpusClip]) -> dict | None:
    """Codes found without an encoder, on a few clips; None: not asked for."""
    if not path.is_file() and count:
        say(f"baseline: optimising the codes of {count} clips through the decoder")
        found = baseline.optimised(hidden, units, baseline.one_of_each(clips, count))
        write_text_atomic(path, json.dumps(found, indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
