"""Step 2 of the studio: a voice's recordings, from the microphone or from files, with their texts and the consent.

What the next step takes is `listing.to_recordings(project)`: the path of `PROJECT/recordings.jsonl`, JSON Lines
`{"audio": "takes/0001-1a2b.wav", "text": ..., "speaker": ID of the project, "language": "de"}` with paths relative to
the file. `voxclone prepare` and `data.path` of a training's configuration read it as they read any manifest. It lists
every usable take, file and clip of a long recording that has a text, and is written anew whenever it is asked for.
Whether there is enough of it tells `listing.progress(project)`.

The folder of a project holds `takes/` (recorded here), `uploads/` (files as they came) and `clips/` (parts of long
ones). Each item is a sound and its notes, `ID.wav` and `ID.json` (`shelf.py`); a file's own name is in its notes alone,
and never a path. Only `pages.py` and `file_pages.py` know of HTTP.
"""
