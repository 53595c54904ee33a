"""What the main job came to: figures over speakers, and of each of them, as JSON and as markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.speaking.score import Heard, gain, interval, summary, table

# What is compared, in the order of the table.
VOICES = {
    "codec": "the codec itself",
    "withheld": "withheld encoder, zero-shot",
    "withheld_adapted": "withheld encoder, adapted",
    "zero_shot": "the job's encoder, zero-shot",
    "blind": "the same behind the user's clips, taken blindly",
    "adapted": "the job's adapters and voice",
    "delivered": "what the job delivers",
    "own": "an own voice",
}
BEFORE = {  # what delivered clones are held against
    "zero_shot": "zero-shot behind other recordings",
    "blind": "zero-shot behind the user's clips",
}
CODES = {"recovered": "the job's encoder", "judged": "judged codes"}


def results(speakers: Sequence[Mapping[str, Any]], texts: int) -> dict[str, Any]:
    """Everything that `MainJob.measured` found, put together.

    Args:
        speakers: of `MainJob.measured`.
        texts: scored, of each.

    Returns:
        `voices`, `codes`: figures with 95 % intervals over speakers; `gains`: from each of BEFORE to delivered;
        `worse`, `better`: for each of BEFORE, the numbers of the speakers whose delivered clone is so against it beyond
        noise;
        `seconds`: mean of each stage; `speakers`: each one's figures.
    """
    each = [speaker_figures(speaker) for speaker in speakers]
    voices = {}
    for name in VOICES:
        if all(name in speaker["heard"] for speaker in speakers):
            voices[name] = summary([one for speaker in speakers for one in heard(speaker, name)], texts)
    codes = {}
    for name in CODES:
        if all(name in speaker["codes"] for speaker in speakers):
            codes[name] = {}
            for figure in ("semantic", "levels"):
                values = np.array([speaker["codes"][name][figure] for speaker in speakers])
                codes[name] |= {figure: float(values.mean()), f"{figure}_interval": interval(values)}
    before = [name for name in BEFORE if name in voices]
    outputs = {name: [one for speaker in speakers for one in heard(speaker, name)] for name in (*before, "delivered")}
    return {
        "texts": texts,
        "voices": voices,
        "codes": codes,
        "gains": {name: gain(outputs[name], outputs["delivered"], texts) for name in before},
        "worse": {name: [one["number"] for one in each if one["verdicts"][name] == "worse"] for name in before},
        "better": {name: [one["number"] for one in each if one["verdicts"][name] == "better"] for name in before},
        "seconds": {
            stage: float(np.mean([speaker["seconds"].get(stage, 0.0) for speaker in speakers]))
            for stage in dict.fromkeys(stage for speaker in speakers for stage in speaker["seconds"])
        },
        "speakers": each,
    }


def heard(speaker: Mapping[str, Any], name: str) -> list[Heard]:
    """The outputs of one of `VOICES`."""
    return [Heard(**one) for one in speaker["heard"][name]]


def speaker_figures(speaker: Mapping[str, Any]) -> dict[str, Any]:
    """One speaker: unit error and similarity of everything, and whether the delivered clone beats each of BEFORE.

    A verdict is "worse" where unit error rises or similarity falls beyond a 95 % interval drawn over the same texts,
    "better" where one of them improves so and none becomes worse, else "alike".
    """
    voices = {name: summary(heard(speaker, name)) for name in VOICES if name in speaker["heard"]}
    gains, verdicts = {}, {}
    for name in (name for name in BEFORE if name in voices):
        changed = gains[name] = gain(heard(speaker, name), heard(speaker, "delivered"), each=1)
        error, similarity = changed["unit_error_gain_interval"], changed["similarity_gain_interval"]
        worse = error[0] > 0 or similarity[1] < 0
        better = error[1] < 0 or similarity[0] > 0
        verdicts[name] = "worse" if worse else "better" if better else "alike"
    return {
        "number": speaker["number"],
        "tract": speaker["speaker"]["formant_scale"],
        "delivered": speaker["delivered"],
        "voices": voices,
        "codes": speaker["codes"],
        "gains": gains,
        "verdicts": verdicts,
        "seconds": speaker["seconds"],
    }


def tables(report: Mapping[str, Any]) -> str:
    """Markdown of `results`."""
    voices = {VOICES[name]: row for name, row in report["voices"].items()}
    return "\n\n".join(
        [
            table(voices, intervals=True),
            _codes(report["codes"]),
            _speakers(report["speakers"]),
            _verdict(report),
            _seconds(report["seconds"]),
        ]
    )


def _codes(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| codes of the speaker's recordings | semantic right | levels off |", "|---|---|---|"]
    for name, row in rows.items():
        low, high = row["semantic_interval"]
        least, most = row["levels_interval"]
        lines.append(
            f"| {CODES[name]} | {row['semantic']:.1%} ({low:.1%}..{high:.1%})"
            f" | {row['levels']:.2f} ({least:.2f}..{most:.2f}) |"
        )
    return "\n".join(lines)


def _speakers(speakers: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in VOICES if name not in ("codec", "own") and any(name in s["voices"] for s in speakers)]
    before = [name for name in BEFORE if name in names]
    lines = [
        "| speaker (tract): similarity, unit error | "
        + " | ".join([VOICES[name] for name in names] + [f"delivered against {BEFORE[name]}" for name in before])
        + " | delivered | seconds |",
        "|---" * (len(names) + len(before) + 3) + "|",
    ]
    for one in speakers:
        cells = []
        for name in names:
            row = one["voices"].get(name)
            cells.append(f"{row['similarity']:.3f}, {row['unit_error']:.1%}" if row else "")
        for name in before:
            changed, verdict = one["gains"][name], one["verdicts"][name]
            similarity, error = changed["similarity_gain_interval"], changed["unit_error_gain_interval"]
            cells.append(
                f"{verdict}: {changed['similarity_gain']:+.3f}{_ends(similarity, '+.3f')},"
                f" {changed['unit_error_gain']:+.1%}{_ends(error, '+.1%')}"
            )
        cells += [one["delivered"]["name"], f"{one['seconds']['in all']:.0f}"]
        lines.append(f"| {one['number']} ({one['tract']}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ends(ends: Sequence[float], form: str) -> str:
    return f" ({ends[0]:{form}}..{ends[1]:{form}})"


def _verdict(report: Mapping[str, Any]) -> str:
    count = len(report["speakers"])
    return " ".join(
        f"Delivered clones beyond noise worse than {BEFORE[name]}: {len(worse)} of {count} speakers; better:"
        f" {len(report['better'][name])}."
        for name, worse in report["worse"].items()
    )


def _seconds(seconds: Mapping[str, float]) -> str:
    return "Seconds a speaker: " + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items()) + "."
