"""Speak with the voice of a recording: python examples/clone.py CHECKPOINT RECORDING TEXT OUT.wav

The checkpoint needs an encoder (a baked one has it). Clone only a voice whose owner has agreed to it.
"""

import sys

import mlx_voxclone


def main(checkpoint: str, recording: str, text: str, output: str) -> None:
    tts = mlx_voxclone.load(checkpoint)
    voice = tts.voice_from(recording)
    voice.save(f"{output.removesuffix('.wav')}.safetensors", overwrite=True)  # for say(voice=...) another time
    mlx_voxclone.write_wav(output, tts.say(text, voice=voice))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except mlx_voxclone.errors.VoxcloneError as error:
        sys.exit(f"error: {error}")
