"""mlx-audio speaks, run by its own interpreter: `mlx_audio_say.py CHECKPOINT VOICE FRAMES DEVICE DTYPE TEXT`.

Seconds are of the frames alone; of the prompt, and of the codec at the end, they stand under "more".
"""

import contextlib
import importlib.metadata
import json
import sys
import time

import mlx.core as mx


class Speech:
    """Runs of `Model.generate`, with marks where the prompt has been read and where the codec begins.

    Nothing is put into the loop of the frames but before the first of them, where the prompt is waited for.
    """

    def __init__(self, model, text: str, voice: str, frames: int):
        self._model, self._text, self._voice, self._frames = model, text, voice, frames
        self._marks = []
        self._head, codec = model.acoustic_transformer, model.audio_tokenizer
        decode_frame, decode_audio = self._head.decode_one_frame, codec.decode

        def first_frame(hidden):
            mx.eval(hidden)
            self._mark()
            self._head.decode_one_frame = decode_frame
            return decode_frame(hidden)

        def whole_audio(codes):
            mx.eval(codes)
            self._mark()
            audio = decode_audio(codes)
            mx.eval(audio)
            self._mark()
            return audio

        self._first_frame, codec.decode = first_frame, whole_audio

    def _mark(self) -> None:
        self._marks.append((time.perf_counter(), time.process_time()))

    def run(self) -> dict:
        self._marks.clear()
        self._head.decode_one_frame = self._first_frame
        mx.reset_peak_memory()
        self._mark()
        (result,) = self._model.generate(self._text, voice=self._voice, max_tokens=self._frames)
        if result.token_count != self._frames:
            raise SystemExit(f"{result.token_count} frames were said in place of {self._frames}")
        prompt, frames, audio = (
            {"seconds": b[0] - a[0], "cpu_seconds": b[1] - a[1]} for a, b in zip(self._marks, self._marks[1:])
        )
        return {
            **frames,
            "peak": mx.get_peak_memory(),
            "memory": "MLX's memory",
            "more": {"prefill": prompt, "audio": audio},
        }


def main() -> None:
    checkpoint, voice, frames, device, dtype, text = sys.argv[1:]
    mx.set_default_device(getattr(mx, device))
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # mlx-audio's own messages
        from mlx_audio.tts.utils import load_model

        model = load_model(checkpoint, strict=True)
        model.set_dtype(getattr(mx, dtype))
        mx.eval(model.parameters())
        settings = model.acoustic_transformer.args
        about = {
            "name": f"mlx-audio {importlib.metadata.version('mlx-audio')}",
            "steps": settings.n_denoising_steps - 1,  # it counts the times, the last of which is the end
            "cfg_alpha": settings.cfg_alpha,
        }
        speech = Speech(model, text, voice, int(frames))
        print(json.dumps(about), file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(speech.run()), file=answers, flush=True)


if __name__ == "__main__":
    main()
