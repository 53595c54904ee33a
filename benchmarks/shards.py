"""What do shards cost, and is a server's slowness hidden? `python -m benchmarks.shards [--clips N]`

Clips of six seconds as files, as shards on the disk, and as shards of a server on this machine that hands out so many
megabytes a second. First the time of an item of task `encoder` (a crop, decoded) by each way, in turn, in milliseconds
of the process's CPU. Then an epoch at the pace of a training that takes a third of what the server could deliver: share
of the time that it waited, with shards fetched ahead and without.
"""

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import write_flac
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.data.shards.write import write_shards
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.encoder.items import EncoderItems
from mlx_voxclone.train.loop.loader import epoch_order

SAMPLES, SHARD, MIX = 6 * 24_000, 10_000_000, 2
ITEMS = 200  # per turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rate", type=float, default=20.0, help="megabytes a second of the server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_clips(folder, options.clips)
        shards = ShardData(folder)
        total = sum(shard.size for shard in shards.index.shards)
        print(f"{options.clips} clips, {len(shards.index.shards)} shards, {total / 1e6:.0f} MB")
        make_micro(folder / "model", "tiny", 0)
        codec = Release(folder / "model").config.codec
        server, address = served(folder, options.rate * 1e6)
        try:
            remote = ShardData(address, folder / "cache", 1.0, MIX)
            items = {name: EncoderItems(data.train, data.heldout, None, EncoderSection(), codec, 0)
                     for name, data in (("files", files), ("shards", shards), ("server", remote))}  # fmt: skip
            for clip in itertools.islice(remote.clips, 0, None, 10):
                clip.read()  # all of them are fetched: what follows is the cost of reading
            for name, milliseconds in in_turn(items, options.repeats).items():
                print(f"{name:<8} {milliseconds:.2f} ms of CPU an item")
            pace = total / len(items["server"]) / (options.rate * 1e6) * 3
            two = 2 * (SHARD + 1_000_000)
            for name, budget in (("fetched ahead", 2 * two), ("not fetched ahead", two)):
                data = ShardData(address, folder / f"cache-{budget}", budget / 1e9, MIX)
                own = EncoderItems(data.train, data.heldout, None, EncoderSection(), codec, 0)
                print(f"{name}: {waited(own, pace):.0%} of an epoch at {1 / pace:.0f} items/s was waiting")
        finally:
            server.terminate()


def make_clips(folder: Path, count: int) -> PreparedData:
    """The same clips as files (returned) and packed into shards with their index."""
    voices = [SyntheticSpeaker.sample(k) for k in range(8)]
    said = [np.concatenate([synthesise("papa mino lesu, tara koni.", v, k) for k in range(4)]) for v in voices]
    for place in ("files", "clips"):
        (folder / place).mkdir()
    clips, lines = [], []
    for k in range(count):
        wave = np.resize(np.roll(said[k % 8], 997 * k), SAMPLES)
        for place in ("files", "clips"):
            write_flac(folder / place / f"c{k}.flac", wave)
        split = "heldout" if k % 40 == 0 else "train"
        clips.append(Clip(f"c{k}", f"files/c{k}.flac", SAMPLES, f"s{k % 8}", split=split, directory=folder))
        told = {"id": f"c{k}", "audio": f"clips/c{k}.flac", "samples": SAMPLES, "speaker": f"s{k % 8}", "split": split}
        lines.append(dict.fromkeys(("text", "language", "reference")) | {"source": "", "start": 0.0} | told)
    write_shards(lines, folder, SHARD)
    return PreparedData(folder, *([c for c in clips if c.split == split] for split in ("train", "heldout")))


def served(folder: Path, rate: float) -> tuple[multiprocessing.Process, str]:
    """A server of a folder, in a process of its own, that is no faster than `rate` bytes a second; its address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(folder, rate, theirs), daemon=True)
    process.start()
    return process, f"http://127.0.0.1:{ours.recv()}"


def _serve(folder: Path, rate: float, told) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = (folder / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            began, block = time.monotonic(), 1 << 18
            for start in range(0, len(content), block):
                self.wfile.write(content[start : start + block])
                time.sleep(max(0.0, began + (start + block) / rate - time.monotonic()))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.send(server.server_port)
    server.serve_forever()


def in_turn(items: dict[str, EncoderItems], repeats: int) -> dict[str, float]:
    """Milliseconds of CPU per item, medians."""
    times: dict[str, list[float]] = {name: [] for name in items}
    for epoch in range(repeats):
        for name, own in items.items():
            order = own.order(0, epoch)
            order = epoch_order(len(own), 0, epoch) if order is None else order
            began = time.process_time()
            for index in order[:ITEMS]:
                own.item(epoch, int(index), 0)
            times[name].append((time.process_time() - began) / ITEMS * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def waited(items: EncoderItems, pace: float) -> float:
    """Share of an epoch that was spent waiting by somebody who takes an item every `pace` seconds; the first group of
    shards, which cannot have been fetched ahead, is not counted."""
    order = items.order(0, 0)
    began = lost = 0.0
    for place, index in enumerate(order[:]):
        if place == len(order) // 6:
            began, lost = time.perf_counter(), 0.0
        before = time.perf_counter()
        items.item(0, int(index), 0)
        taken = time.perf_counter() - before
        lost += max(0.0, taken - pace)
        time.sleep(max(0.0, pace - taken))
    order.close()
    return lost / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
