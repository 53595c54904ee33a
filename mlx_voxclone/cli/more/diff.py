"""`voxclone diff`: what differs between two checkpoints."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command
from mlx_voxclone.cli.options import add_shared

if TYPE_CHECKING:
    from mlx_voxclone.bake.compare import ChangedTensor, Difference

_PARTS = {"lm": "language model", "head": "flow head", "decoder": "codec decoder", "encoder": "codec encoder"}


def _options(parser: Parser) -> None:
    parser.add_argument("base", metavar="BASE", help="Voxtral checkpoint: a directory or a Hub id")
    parser.add_argument("other", metavar="OTHER", help="what to compare it with")
    add_shared(parser, "--verbose", note=" that differs")
    add_shared(parser, "--json", "--quiet")


@command("Compare two checkpoints: tensors, voices and files. Both are only read.", _options)
def main(options) -> None:
    from mlx_voxclone.bake.compare import compare
    from mlx_voxclone.checkpoint.release import Release
    from mlx_voxclone.process.progress import weight_bar

    base, other = Release(options.base), Release(options.other)
    with weight_bar(options.quiet) as advance:
        found = compare(base, other, advance)
    print(
        json.dumps(asdict(found) | {"equal": found.equal}, indent=1) if options.json else table(found, options.verbose)
    )


def table(found: "Difference", verbose: bool = False) -> str:
    """A difference in a few lines; `verbose`: and one for each tensor."""
    if found.equal:
        return f"no difference: {found.same} tensors, voices and files are the same"
    lines = [("same", f"{found.same} tensors, to the bit")]
    for part, title in _PARTS.items():
        if changed := [t for t in found.changed if t.part == part]:
            lines.append(("changed", f"{len(changed)} tensors of the {title}{_extent(changed)}"))
    for label, names in (("added", found.added), ("removed", found.removed)):
        for part, count in _count(names).items():
            lines.append((label, f"{count} tensors of the {_PARTS[part]}"))
    for kind in ("voices", "files"):
        for label in ("added", "removed", "changed"):
            if names := getattr(found, f"{kind}_{label}"):
                lines.append((f"{kind} {label}", ", ".join(names)))
    text = [f"{label:<16} {value}" for label, value in lines]
    if verbose:
        text += [_line(tensor) for tensor in found.changed]
        text += [f"  + {name}" for name in found.added] + [f"  - {name}" for name in found.removed]
    return "\n".join(text)


def _count(names: list[str]) -> Counter:
    from mlx_voxclone.checkpoint.release import part_of

    return Counter(part_of(name) for name in names)


def _extent(changed: "list[ChangedTensor]") -> str:
    known = [t for t in changed if t.relative_change is not None]
    if not known:
        return ""
    smallest, largest = (f(known, key=lambda t: t.relative_change) for f in (min, max))
    if len(known) == 1:
        return f" by {_percent(largest.relative_change)} ({largest.name})"
    return f" by {_percent(smallest.relative_change)} to {_percent(largest.relative_change)} (most: {largest.name})"


def _line(tensor: "ChangedTensor") -> str:
    kind = tensor.before if tensor.before == tensor.after else f"{tensor.before} -> {tensor.after}"
    if tensor.relative_change is None:
        return f"  ~ {tensor.name}  {kind}"
    return f"  ~ {tensor.name}  {kind}  by {_percent(tensor.relative_change)}, {tensor.elements:.1%} of the elements"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %"
