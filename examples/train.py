"""Train a voice and let it speak: python examples/train.py CONFIG RECORDINGS VOICE

CONFIG is a YAML file, such as configs/profiles/mac-32gb.yaml. Ctrl-C saves the last step; the same command goes on.
"""

import sys
from pathlib import Path

import mlx_voxclone


def progress(done: int, total: int | None, what: str) -> None:
    print(f"\r{what}: {done}{'' if total is None else f' of {total}'}", end="", file=sys.stderr)


def main(config: str, recordings: str, voice: str) -> None:
    output = Path("runs") / voice
    run = mlx_voxclone.train(
        config,
        data={"path": recordings},
        voice=voice,
        output=output,
        resume=output if (output / "config.yaml").exists() else None,
        progress=progress,
        message=lambda line: print(f"\r{line}", file=sys.stderr),
    )
    for name, result in run.results.items():
        print(f"{name}: {result.metric} {result.best_metric:.4g} after {result.steps} steps")
    if run.checkpoint is not None:
        mlx_voxclone.write_wav(run.directory / "hello.wav", run.load().say("Good morning.", voice=run.voice))
    print(run.report)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except mlx_voxclone.errors.VoxcloneError as error:
        sys.exit(f"error: {error}")
