"""The rows of `voxclone bench` as a table to read and as JSON to send."""

from collections.abc import Sequence
from dataclasses import asdict

from mlx_voxclone.bench.measure import Peer, Row
from mlx_voxclone.process.amounts import format_bytes
from mlx_voxclone.process.machine import Machine

HEAD = ("work", "speed", "a run", "memory", "of the products' rate", "against")


def render(rows: Sequence[Row]) -> str:
    """One line per row and peer; what each row's sizes are stands below."""
    cells = [HEAD]
    for row in rows:
        own = (row.name, f"{number(row.speed)} {row.unit}", seconds(row.seconds), format_bytes(row.peak), share(row))
        against = [compared(row, peer) for peer in row.peers] or [""]
        cells.append((*own, against[0]))
        cells += [("", "", "", "", "", more) for more in against[1:]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(HEAD))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
    return "\n".join([*table, "", *(f"{row.name}: {row.what}" for row in rows)])


def compared(row: Row, peer: Peer) -> str:
    """How many times as fast as a peer, as a range where it tells its `ratios` run by run, and its memory."""
    ratios = peer.more.get("ratios") or [peer.seconds / row.seconds]
    times = " to ".join(dict.fromkeys((number(min(ratios)), number(max(ratios)))))
    text = f"{times} x {peer.name} ({seconds(peer.seconds)}"
    if not peer.peak:
        return text + ")"
    return f"{text}, {format_bytes(peer.peak)}{' ' + peer.memory if peer.memory else ''})"


def share(row: Row) -> str:
    return "" if row.share is None else f"{row.share:.0%}"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value < 0.1 else f"{value:.3g} s"


def as_json(machine: Machine, rates: dict[str, float], rows: Sequence[Row]) -> dict:
    """Everything, JSON-ready. `rates`: operations per second of large products, by precision."""
    return {"machine": asdict(machine), "product_rates": rates, "rows": [asdict(row) for row in rows]}
