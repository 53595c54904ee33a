"""The rooms of the package, from the ground up, and which of the lower ones each may import.

Plain data, also the source of the architecture page's picture. `test_rooms.py` holds the package to it.
"""

EVERY_LOWER_ONE = "*"

# Room (a folder or a module of the package), what lives there, neighbours that it imports.
ROOMS = [
    (
        "version",
        "The version of the package.",
        "",
    ),
    (
        "errors",
        "Mistakes of the user's: one line each, with what to do.",
        "",
    ),
    (
        "process",
        "Signals, streams, locks, temporaries, limits and progress of a process.",
        "errors",
    ),
    (
        "files",
        "Names, texts, JSON, YAML, the hub and the cache; atomic writing.",
        "errors process",
    ),
    (
        "text",
        "The form in which texts are spoken and learnt.",
        "errors files",
    ),
    (
        "settings",
        "The run configuration: one schema, its defaults, bounds and comments.",
        "errors files text",
    ),
    (
        "audio",
        "Audio in and out, segments, levels, spectra; 24 kHz mono float32.",
        "errors files",
    ),
    (
        "whisper",
        "Whisper as a listener: its files, what it hears, when each word is said, texts compared.",
        "errors files audio",
    ),
    (
        "model",
        "The model, equal to the released serving code, and its generation.",
        "errors files audio",
    ),
    (
        "losses",
        "Losses: pure functions of arrays.",
        "errors audio model",
    ),
    (
        "checkpoint",
        "Tensor files, releases, voices: reading and writing.",
        "errors process files model",
    ),
    (
        "adapters",
        "LoRA: files, mixes, and models that carry adapters.",
        "errors files model checkpoint",
    ),
    (
        "miniature",
        "Miniature checkpoints and synthetic speakers to try everything on.",
        "errors files audio model checkpoint",
    ),
    (
        "speech",
        "Text to speech, of texts of any length.",
        "errors process files text audio whisper model checkpoint adapters",
    ),
    (
        "serve",
        "Speech over HTTP: requests in one batch, voices that come and go.",
        "version errors process files text audio model checkpoint adapters speech",
    ),
    (
        "bake",
        "New checkpoints: encoder injected, adapters folded, voices added; compared and taken back.",
        "version errors files model checkpoint adapters speech",
    ),
    (
        "data",
        "Recordings in, clips out: manifests, preparation, transcripts, shards.",
        "errors process files text settings audio whisper",
    ),
    (
        "pairs",
        "Exact pairs of codes and audio, made by letting a model speak.",
        "errors process files text audio model checkpoint speech data",
    ),
    (
        "evaluate",
        "Measures of speech and codes, and the cases they are taken on.",
        "version errors files audio model losses checkpoint adapters whisper speech data pairs",
    ),
    (
        "report",
        "What a run shows: page, plots, before and after.",
        "errors process files audio evaluate",
    ),
    (
        "tracking",
        "A run's figures on boards of the user's own, and word of its end.",
        "version errors process files",
    ),
    (
        "train.saved",
        "What a run leaves and goes on from: checkpoints, resume, results.",
        "errors process files settings checkpoint",
    ),
    (
        "train.loop",
        "The training loop: steps, gradients, optimizers, data order, several ranks.",
        "errors process files settings train.saved",
    ),
    (
        "train.stages",
        "A stage of a run: what it shares with the others; its training begun, continued or found complete.",
        "errors process files settings checkpoint data train.saved train.loop",
    ),
    (
        "train.whisper",
        "Whisper as a teacher of the semantic codes.",
        "errors files checkpoint whisper data",
    ),
    (
        "train.judge",
        "Codes of recordings, judged by the language model.",
        "errors process files settings audio model losses checkpoint adapters speech bake data pairs "
        "train.saved train.stages",
    ),
    (
        "train.encoder",
        "The codec encoder's training.",
        "errors process files settings audio model losses checkpoint bake whisper data pairs evaluate train.saved "
        "train.loop train.stages train.whisper train.judge",
    ),
    (
        "train.speaker",
        "The language model's training: adapters for a speaker or a language.",
        "errors process files settings audio model losses checkpoint adapters speech bake data pairs evaluate "
        "train.saved train.loop train.stages train.judge",
    ),
    (
        "train.distill",
        "Code distillation (experimental).",
        "errors files settings audio model losses checkpoint adapters speech bake data pairs "
        "train.saved train.loop train.stages train.encoder train.speaker",
    ),
    (
        "train.clone",
        "Task `clone`: from an encoder to a voice that is delivered.",
        "errors process files settings audio model checkpoint adapters speech bake data pairs evaluate "
        "train.saved train.loop train.stages train.judge train.encoder train.speaker",
    ),
    (
        "train",
        "A run as a whole: its checks, its stages, sweeps.",
        "errors process files settings audio checkpoint speech bake data report tracking train.saved "
        "train.loop train.stages train.judge train.encoder train.speaker train.distill train.clone",
    ),
    (
        "doctor",
        "What a run will need: memory, time, disk; the smoke test.",
        "errors process files settings audio model checkpoint adapters miniature bake data pairs train.saved "
        "train.loop train.stages train.judge train.encoder train.speaker train.distill train.clone train",
    ),
    (
        "publish",
        "Sharing what was trained: files, model card, upload to the hub.",
        "version errors process files settings checkpoint adapters bake",
    ),
    (
        "bench",
        "How fast, and with how much memory, on this machine.",
        "errors process files settings audio model losses checkpoint miniature speech bake train.loop "
        "train.encoder doctor",
    ),
    ("api", "`import mlx_voxclone`: the Python API.", EVERY_LOWER_ONE),
    (
        "selfcheck",
        "Whether this machine computes what it must, each check in a process of its own.",
        "version errors process files settings audio model losses checkpoint adapters miniature speech train.saved "
        "train.loop train.speaker doctor api",
    ),
    (
        "studio",
        "The studio in the browser: record, train, listen, speak, keep.",
        EVERY_LOWER_ONE,
    ),
    ("cli", "`voxclone NAME`: one thin module per command.", EVERY_LOWER_ONE),
    (
        "demo",
        "The page to listen on.",
        "errors process text speech report cli",
    ),
]
