"""`voxclone decode`: codes to audio."""

from mlx_voxclone.audio.output import check_wav_output
from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared


def _options(parser: Parser) -> None:
    parser.add_argument("codes", metavar="X.safetensors", help="file with a tensor `codes`, 0-based")
    add_shared(parser, "--model")
    add_shared(parser, "--output", metavar="OUT.wav", help="24 kHz mono WAV to write; replaced if it exists")
    add_shared(parser, "--float32", "--device", "--quiet")


@command("Decode the `codes` [37, T] of a file that `encode` wrote to 24 kHz audio.", _options)
def main(options) -> None:
    from mlx_voxclone.audio.wav_stream import wav_file
    from mlx_voxclone.checkpoint.reader import TensorFile
    from mlx_voxclone.checkpoint.release import Release, load_model
    from mlx_voxclone.errors import CheckpointError
    from mlx_voxclone.process.progress import progress_bar

    output = check_wav_output(options.output, options.codes)
    file = TensorFile(options.codes)
    if "codes" not in file.names():
        raise CheckpointError(f"{options.codes}: holds no tensor `codes`; give a file that `voxclone encode` wrote")
    codec = load_model(Release(options.model), parts=["codec"]).audio_tokenizer
    codes = file.numpy("codes")
    try:
        codec.check_codes(codes)
    except ValueError as e:
        raise CheckpointError(f"{options.codes}: {e}") from None
    samples = codes.shape[1] * codec.config.frame_size
    if not samples:
        raise CheckpointError(f"{options.codes}: holds 0 frames, there is nothing to decode")
    with progress_bar(quiet=options.quiet, total=codes.shape[1], unit="frame") as bar:
        pieces = codec.decode_pieces(codes, on_frames=bar.update)
        with wav_file(output, float32=options.float32) as write:
            for piece in pieces:
                write(piece)
    message(f"{samples / codec.config.sampling_rate:.2f} s of audio")
    print(options.output)
