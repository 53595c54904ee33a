"""What does an item of task `encoder` cost, by length and format of its clip? `python -m benchmarks.crops [--items N]`

A crop of four seconds, decoded alone and, as it was, out of the whole clip; milliseconds of the process's CPU, in turn.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_flac, write_wav
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data.clips import Clip
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.encoder.items import EncoderItems

LENGTHS, TURNS = (6, 12, 20), 5
SECTION = EncoderSection(crop_seconds=4.0, quantisation_noise=False)


class _Whole(Clip):
    """Decodes all of it for each crop."""

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return super().read()[start:stop]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=50, help="per turn")
    options = parser.parse_args()
    print("| clip | whole, ms | crop, ms | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        make_micro(Path(place, "model"), preset="tiny")
        config = Release(Path(place, "model")).config.codec
        speech = synthesise("papa mino nalu wera koni lesu tara. " * 20, SyntheticSpeaker.sample(0))
        for seconds in LENGTHS:
            speech = np.resize(speech, seconds * SAMPLE_RATE)
            for name, write in (("a.flac", write_flac), ("a.wav", write_wav)):
                write(Path(place, name), speech)
                ways = [
                    EncoderItems([kind("a", Path(place, name), len(speech), "ann")], [], None, SECTION, config, 0)
                    for kind in (_Whole, Clip)
                ]
                turns = [[_ms(items, options.items) for items in ways] for _ in range(TURNS)]
                whole, crop = (statistics.median(turn) for turn in zip(*turns))
                print(f"| {seconds} s {name[2:]} | {whole:.2f} | {crop:.2f} | {whole / crop:.1f} |")


def _ms(items: EncoderItems, count: int) -> float:
    began = time.process_time()
    for k in range(count):
        items.item(k, 0, 0)
    return (time.process_time() - began) / count * 1e3


if __name__ == "__main__":
    main()
