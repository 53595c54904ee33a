"""The model card: what it is, whose consent, which licence, how it sounds, what was measured, how to use it.

The hub reads the YAML at its top (https://huggingface.co/docs/hub/model-cards); people read the rest.
"""

import html
import re
import shlex
from collections.abc import Sequence

import yaml

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.publish.privacy import check_text
from mlx_voxclone.publish.publication import Publication
from mlx_voxclone.version import __version__

LICENCE = "cc-by-nc-4.0"
LICENCE_PAGE = "https://creativecommons.org/licenses/by-nc/4.0/"
PROJECT = "mlx-voxclone"
LONGEST_CONSENT = 1000  # characters
_TEXT = '"Good morning."'
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def check_consent(text: str | None) -> str:
    """The statement as one line.

    Raises:
        CheckpointError: none, a single word, one that is too long, or one that names a path of this machine.
    """
    words = (text or "").split()
    if len(words) < 2:
        raise CheckpointError(
            "nothing is published without consent: say whose voice it is and that its owner agreed, for example"
            ' --consent "Ann Lee agreed on 2 May 2026", or "it is my own voice"'
        )
    statement = " ".join(words)
    if len(statement) > LONGEST_CONSENT:
        raise CheckpointError(f"--consent: {len(statement)} characters; {LONGEST_CONSENT} at most")
    check_text(statement, "--consent")
    return statement


def model_card(publication: Publication, repository: str, consent: str) -> str:
    """The model card of a publication, Markdown.

    Args:
        publication: all of its files but the card.
        repository: `OWNER/NAME` that it goes to.
        consent: the statement, see `check_consent`.

    Raises:
        CheckpointError: no consent, or something in the card names a path of this machine.
    """
    consent = check_consent(consent)
    parts = [
        "---\n" + yaml.safe_dump(_metadata(publication), sort_keys=False, allow_unicode=True) + "---",
        f"# {repository.partition('/')[2]}",
        _what(publication),
        "## Consent",
        f"> {_escaped(consent)}",
        "This is the statement of whoever published it. Speech made with it is synthetic: tell listeners so. Do not use"
        " it to deceive, or for anything that the owner of the voice has not agreed to.",
        "## Licence",
        f"Derived from [{publication.base_model}](https://huggingface.co/{publication.base_model}). The weights and"
        " preset voices of Voxtral-4B-TTS-2603 are Mistral AI's, under"
        f" [CC BY-NC 4.0]({LICENCE_PAGE}). What is here was changed or made with them and is under the same licence,"
        " and so is the speech that it makes: name the source, no commercial use.",
        *_samples(publication, repository),
        "## How to use it",
        _usage(publication, repository),
        "## What is here",
        _table(("file", "size"), [(f"`{name}`", _size(path)) for name, path in sorted(publication.files.items())]),
        _table(("part", ""), _facts(publication)),
        "## Figures",
        _table(("measured in training", ""), publication.figures)
        if publication.figures
        else "None were recorded with these files.",
    ]
    card = "\n\n".join(part for part in parts if part) + "\n"
    check_text(card, "the model card")
    return card


def _metadata(publication: Publication) -> dict:
    content = {
        "license": LICENCE,
        "base_model": publication.base_model,
        "library_name": PROJECT,
        "pipeline_tag": "text-to-speech",
        "tags": ["voxtral", "text-to-speech", "voice-cloning", "mlx", PROJECT],
    }
    if publication.baked or publication.adapters:
        content["base_model_relation"] = "finetune" if publication.baked else "adapter"
    return content


def _what(publication: Publication) -> str:
    base = publication.base_model
    parts = [f"a checkpoint made from {base}"] if publication.baked else []
    parts += [f"a codec encoder for {base}, which was released without one"] if publication.encoder else []
    parts += ["LoRA adapters for its language model"] if publication.adapters else []
    names = [f"`{name}`" for name in publication.voices]
    parts += [f"the voice {', '.join(names)}"] if names else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. Made with {PROJECT} {__version__}, whose command is `voxclone`."


def _samples(publication: Publication, repository: str) -> list[str]:
    """Players; the hub plays what has a full address."""
    if not publication.samples:
        return []
    parts = [
        "## Samples",
        "All of it is generated speech; `before` is the released model with the voice as its prompt.",
    ]
    for sample in publication.samples:
        parts.append(f"> {_escaped(' '.join(sample.text.split()))}")
        for when, name in sample.speech.items():
            address = html.escape(f"https://huggingface.co/{repository}/resolve/main/{name}")
            parts.append(f'[{when}]({name}) <audio controls src="{address}"></audio>')
    return parts


def _usage(publication: Publication, repository: str) -> str:
    """Commands for every part."""
    address, base = f"hf://{repository}", publication.base_model
    blocks = []
    if publication.baked:
        voice = (*publication.baked_voices, *publication.voices, "casual_female")[0]
        blocks.append(
            _say(repository, ["--voice", voice])
            + f"\nvllm serve {repository} --omni        # any server that loads Voxtral-4B-TTS-2603 takes it"
        )
    adapters, single = [], len(publication.adapters) == 1
    for one in publication.adapters:
        place = address if single else f"{address}/{one.folder}"
        adapters += ["--adapters", place if one.weight == 1 else f"{place}={one.weight:g}"]
    encoder = ["--encoder", address] if publication.encoder else []
    voices = list(publication.voices)
    if voices:
        blocks.append(_say(base, [*adapters, "--voice", address]))
    elif adapters or encoder:
        blocks.append(_say(base, [*encoder, *adapters, "--ref-audio", "voice.wav"]))
    if encoder or adapters or voices:
        added = ["--voice", f"{voices[0]}={address}"] if voices else []
        blocks.append(_command("bake", ["--model", base, "--output", "baked", *encoder, *adapters, *added]))
    return "\n\n".join(f"```\n{block}\n```" for block in blocks)


def _say(model: str, options: Sequence[str]) -> str:
    return f"{_command('say', ['--model', model, *options])} --text {_TEXT} --output hello.wav"


def _command(name: str, options: Sequence[str]) -> str:
    return " ".join(["voxclone", name, *map(shlex.quote, options)])


def _facts(publication: Publication) -> list[tuple[str, str]]:
    base = publication.base_fingerprint
    return [*publication.facts, *([("fingerprint of the base model", f"`{base}`")] if base else [])]


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {value} |" for what, value in rows)])


def _size(path) -> str:
    from mlx_voxclone.process.amounts import format_bytes

    return format_bytes(path.stat().st_size)


def _escaped(text: str) -> str:
    """Words of a person, with nothing in them that Markdown or HTML would act on."""
    return _SPECIAL.sub(r"\\\1", text)
