"""Speech while it is computed, as raw 24 kHz samples on stdout:

python examples/stream.py CHECKPOINT VOICE TEXT | ffplay -f f32le -ar 24000 -ch_layout mono -autoexit -nodisp -
"""

import sys

import mlx_voxclone


def main(checkpoint: str, voice: str, text: str) -> None:
    tts = mlx_voxclone.load(checkpoint)
    for chunk in tts.stream(text, voice=voice):
        sys.stdout.buffer.write(chunk.tobytes())  # float32, little-endian on every machine that MLX runs on
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except mlx_voxclone.errors.VoxcloneError as error:
        sys.exit(f"error: {error}")
