"""Errors that are the user's to mend: one clear line (what, where, what to do), exit code 2, no traceback."""


class VoxcloneError(Exception):
    """Base of every error whose message is meant for the user as it stands."""


class VoxcloneWarning(UserWarning):
    """Something that a caller of the Python API should know, and that stops nothing: speech cut off, two voices."""


class ConfigError(VoxcloneError):
    """A run configuration or `params.json` that cannot be used."""


class DataError(VoxcloneError):
    """Audio, text or a manifest that cannot be used."""


class TranscriptError(DataError):
    """Transcripts that are not of their recordings. Corrected ones are other data: a run cannot go on with them."""


class TrainingError(VoxcloneError):
    """A training that cannot go on: its losses or gradients are not finite."""


class RankLostError(TrainingError):
    """Another process of the same training is gone."""


class CheckpointError(VoxcloneError):
    """A checkpoint, adapter, voice or run directory that cannot be read or written."""


class NotFiniteError(CheckpointError):
    """Numbers of a model that are not finite: damaged weights, or those of a training that has diverged."""


class StoppedError(CheckpointError):
    """A training that the machine has ended (a full disk, no memory): it can be continued."""
