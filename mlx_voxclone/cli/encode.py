"""`voxclone encode`: audio to codes, latents and voice embedding."""

from mlx_voxclone.cli.common import (
    Parser,
    add_device,
    add_model,
    add_quiet,
    add_seed,
    entry,
    message,
    set_device,
    set_quiet,
)


@entry
def main(argv: list[str]) -> None:
    parser = Parser(
        "encode",
        "Encode a recording. The output holds `codes` int32 [37, T] (0-based), `latents` float32 [T, 292] and\n"
        "`embedding` float32 [T + 1, dim], the rows that stand for the voice in a prompt (END row last).",
    )
    parser.add_argument("audio", metavar="AUDIO", help="any file soundfile reads; resampled to 24 kHz mono")
    add_model(parser)
    parser.add_argument("--output", required=True, metavar="X.safetensors", help="file to write; must not exist")
    parser.add_argument("--encoder", metavar="FILE", help="encoder weights for a checkpoint that has none")
    parser.add_argument("--normalise", action="store_true", help="bring the level to -23 dBFS first (servers do not)")
    add_seed(parser)  # every command takes it; nothing is drawn at random here
    add_device(parser)
    add_quiet(parser)
    options = parser.parse_args(argv)
    set_quiet(options.quiet)
    set_device(options.device)
    _run(options)


def _run(options) -> None:
    from pathlib import Path

    import mlx.core as mx
    import numpy as np

    from mlx_voxclone.audio.io import normalise_level, read_audio
    from mlx_voxclone.checkpoint.release import Release, load_model
    from mlx_voxclone.checkpoint.writer import save_tensors
    from mlx_voxclone.errors import CheckpointError
    from mlx_voxclone.progress import progress_bar

    output = Path(options.output)
    if output.exists():
        raise CheckpointError(f"{output}: exists already; choose another name or move it away")
    wave = read_audio(options.audio)
    if options.normalise:
        wave = normalise_level(wave)
    release = Release(options.model)
    if not release.has_encoder and options.encoder is None:
        raise CheckpointError(
            f"{release.path}: has no codec encoder (the release lacks it); give --encoder FILE, or a baked checkpoint"
        )
    model = load_model(release, parts=["lm", "codec"], encoder_file=options.encoder)
    codec = model.audio_tokenizer
    with progress_bar(quiet=options.quiet, total=codec.config.n_frames(len(wave)), unit="frame") as bar:
        latents = codec.encode_audio(wave, on_frames=bar.update)
    codes = np.array(codec.quantize(latents[None])[0])
    embedding = model.voice_embedding(codes).astype(mx.float32)
    save_tensors(output, {"codes": codes, "latents": latents, "embedding": embedding})
    message(f"{len(wave) / codec.config.sampling_rate:.2f} s -> {codes.shape[1]} frames of {codes.shape[0]} codes")
    print(output)
