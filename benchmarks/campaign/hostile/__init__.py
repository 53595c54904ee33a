"""Inputs that somebody made to read, write or run what is not theirs, or to fill memory and time."""

from collections.abc import Callable, Iterator

from benchmarks.campaign.hostile import names, packed, places, remote, sounds, tensors, texts
from benchmarks.campaign.hostile.scene import Probe

FAMILIES: dict[str, Callable[[], Iterator[Probe]]] = {
    "code in a file": packed.code,
    "archive": packed.archives,
    "header of tensors": tensors.headers,
    "header of audio": sounds.headers,
    "path in a list": texts.paths,
    "YAML": texts.yaml,
    "JSON": texts.json_texts,
    "name": names.given,
    "name in a file": names.written,
    "link where something is written": places.outputs,
    "link among temporaries": places.temporaries,
    "run directory": places.runs,
    "publication": places.publications,
    "server": remote.servers,
}


def probes(count: int | None = None) -> list[tuple[str, Probe]]:
    """(family, probe) of the first `count`, taken from every family in turn; None: all there are."""
    found = {family: list(made()) for family, made in FAMILIES.items()}
    longest = max(map(len, found.values()))
    # Of a long family they come evenly spread over its attacks and targets.
    turns = [(k / len(each), family, probe) for family, each in found.items() for k, probe in enumerate(_spread(each))]
    if count is None or count >= len(turns):
        return [(family, probe) for _, family, probe in sorted(turns, key=lambda turn: turn[0])]
    chosen = [
        (family, probe) for k in range(longest) for family, each in found.items() for probe in _spread(each)[k : k + 1]
    ]
    return chosen[:count]


def _spread(found: list[Probe]) -> list[Probe]:
    """The same in an order in which the first ones differ in attack and target."""
    step = next(k for k in range(max(1, round(len(found) * 0.382)), len(found) + 2) if _coprime(k, len(found)))
    return [found[k * step % len(found)] for k in range(len(found))]


def _coprime(one: int, other: int) -> bool:
    while other:
        one, other = other, one % other
    return one == 1
