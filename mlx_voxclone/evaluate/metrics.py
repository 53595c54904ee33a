"""What is measured: titles, units, and which way is better."""

from dataclasses import dataclass

HIGHER, LOWER, NEITHER = "higher", "lower", ""


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: its title, unit, and which way is better."""

    title: str
    unit: str
    better: str


METRICS = {
    "similarity": Metric("speaker similarity", "cosine", HIGHER),
    "ge2e_similarity": Metric("speaker similarity (GE2E)", "cosine", HIGHER),
    "spectral_similarity": Metric("spectral similarity (no speaker model)", "cosine", HIGHER),
    "wer": Metric("word error rate", "%", LOWER),
    "cer": Metric("character error rate", "%", LOWER),
    "pitch_distance": Metric("distance of the median pitch", "semitones", LOWER),
    "pitch_hz": Metric("median pitch", "Hz", NEITHER),
    "pitch_deviation": Metric("deviation of the pitch", "semitones", NEITHER),
    "letters_per_second": Metric("pace", "letters/s", NEITHER),
    "duration_ratio": Metric("duration over the original's", "", NEITHER),
    "real_time_factor": Metric("seconds of work per second of speech", "", LOWER),
    "preset_drift": Metric("drift of the model's own voices", "nats", LOWER),
    "preset_flow": Metric("distance of their velocities, squared", "", LOWER),
    "preset_agreement": Metric("their semantic codes unchanged", "%", HIGHER),
    "mel_distance": Metric("mel distance", "", LOWER),
    "stft_distance": Metric("STFT distance", "", LOWER),
    "pesq": Metric("PESQ, wide band", "", HIGHER),
    "estoi": Metric("ESTOI", "", HIGHER),
    "si_sdr": Metric("SI-SDR", "dB", HIGHER),
}
