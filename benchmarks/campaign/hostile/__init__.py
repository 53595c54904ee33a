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
    """(family, probe) of the first `count`, taken from every family in turn; None: all there are.

    The first ones of a family differ in attack and target.
    """
    families = {family: _spread(list(made())) for family, made in FAMILIES.items()}
    longest = max(map(len, families.values()))
    found = [(family, probe) for k in range(longest) for family, own in families.items() for probe in own[k : k + 1]]
    return found[:count]


def _spread(found: list[Probe]) -> list[Probe]:
    """The same in another order: steps of a golden section through a list that goes on behind its end at its start."""
    least = max(1, round(len(found) * 0.382))
    step = next(k for k in range(least, least + len(found) + 1) if _coprime(k, len(found)))
    return [found[k * step % len(found)] for k in range(len(found))]


def _coprime(one: int, other: int) -> bool:
    while other:
        one, other = other, one % other
    return one == 1
