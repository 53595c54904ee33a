"""Voices that come by upload: kept with the consent, spoken with, removed; and what cannot become one."""

import hashlib
import io
import json
import os
import shutil
import stat
import threading

import mlx.core as mx
import numpy as np
import openai
import pytest
import soundfile
from served import serving
from waiting import wait_for

from mlx_voxclone.checkpoint.voices import EMBEDDING
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.serve.errors import ApiError
from mlx_voxclone.serve.jobs import Job
from mlx_voxclone.serve.server import Options
from mlx_voxclone.serve.voices import Voices
from mlx_voxclone.serve.web.guard import Limits
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["baking", "commands"]
CONSENT = "Ann Example agreed on 1 November 2026, by letter"


def clip_of(seconds=2.0, level=1.0, form="WAV", subtype=None) -> bytes:
    wave = synthesise("papa mino lesu tara koni sewu papa mino", SyntheticSpeaker.sample(3), 0)
    wave = level * np.resize(wave, int(seconds * 24000))
    file = io.BytesIO()
    soundfile.write(file, wave, 24000, format=form, subtype=subtype)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "voices"


@pytest.fixture(scope="module")
def served(miniature, encoder_file, adapters, folder):
    limits = Limits(body=100_000, upload=6_000_000, linger=1.0)
    own = {"casual_female": [adapters]}
    with serving(miniature, Options(voices=folder, voice_adapters=own, limits=limits), encoder_file) as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    return served.client()


@pytest.fixture
def voice(client, served):
    """A voice that was uploaded; removed at the end."""
    made = client.audio.voices.create(name="ann", consent=CONSENT, audio_sample=("ann.wav", clip_of(), "audio/wav"))
    yield made
    served.ask("DELETE", "/v1/audio/voices/ann")


def upload(client, **changes):
    fields = {"name": "ann", "consent": CONSENT, "audio_sample": ("ann.wav", clip_of(), "audio/wav")}
    return client.audio.voices.create(**(fields | changes))


def speech(client, voice, text="papa", seed=2):
    return client.audio.speech.create(
        model="tts-1", voice=voice, input=text, response_format="pcm", extra_body={"seed": seed}
    ).content


def names(served):
    return [voice["id"] for voice in json.loads(served.ask("GET", "/v1/audio/voices")[1])["data"]]


def test_a_voice_is_kept_with_its_consent_and_spoken_with(served, client, folder, voice, miniature):
    assert (voice.id, voice.object, voice.type) == ("ann", "audio.voice", "audio_sample")
    assert names(served)[-1] == "ann"
    assert sorted(path.name for path in folder.iterdir()) == ["ann.json", "ann.safetensors", "ann.wav"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    record = json.loads((folder / "ann.json").read_text())
    assert record["consent"] == CONSENT
    assert len(record["sha256"]) == 64
    engine = served.server.engine
    speaker = engine.speaker

    def said():
        rows = speaker.voice_rows(reference=folder / "ann.wav")
        return speaker.say("papa.", rows.astype(mx.bfloat16), seed=2, max_seconds=2.4).frames

    assert len(speech(client, "ann")) == 3840 * engine.call(said).result(300)


def test_a_voice_removed_while_it_speaks(served, client, folder, voice, monkeypatch):
    """Who speaks with it goes on to the end; the next one is told."""
    found, begun, removed, frame = [], threading.Event(), threading.Event(), Job.frame

    def waiting(self, utterance, codes):
        begun.set()
        assert removed.wait(60)
        frame(self, utterance, codes)

    monkeypatch.setattr(Job, "frame", waiting)
    thread = threading.Thread(target=lambda: found.append(speech(client, "ann", "papa mino")))
    thread.start()
    assert begun.wait(60)
    assert json.loads(served.ask("DELETE", "/v1/audio/voices/ANN")[1]) == {
        "id": "ann", "object": "audio.voice.deleted", "deleted": True,
    }  # fmt: skip
    removed.set()
    thread.join()
    assert len(found[0]) > 0
    assert list(folder.iterdir()) == []
    with pytest.raises(openai.BadRequestError, match="no voice 'ann'"):
        speech(client, "ann")


def test_a_voice_removed_between_the_request_and_its_turn(served, client, voice):
    engine, found = served.server.engine, []

    def ask():
        with pytest.raises(openai.BadRequestError, match="was removed") as caught:
            speech(client, "ann")
        found.append(caught.value.code)

    thread = threading.Thread(target=ask)
    with served.held():
        thread.start()
        wait_for(lambda: engine._new)
        served.ask("DELETE", "/v1/audio/voices/ann")
    thread.join()
    assert found == ["voice_not_found"]


def test_a_name_is_given_once(client, voice, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(openai.ConflictError, match="ann is taken"):
        upload(client)
    with pytest.raises(openai.ConflictError, match="casual_male is taken"):
        upload(client, name="casual_male")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_no_file_of_the_operators_is_replaced_or_removed(client, served, folder):
    (folder / "bob.wav").write_bytes(b"a recording of somebody's")
    with pytest.raises(openai.ConflictError):
        upload(client, name="bob")
    save_tensors(folder / "carl.safetensors", {EMBEDDING: served.server.engine.speaker.release.voice("casual_male")})
    assert names(served)[-1] == "carl"
    assert len(speech(client, "carl")) > 0
    status, body, _ = served.ask("DELETE", "/v1/audio/voices/carl")
    assert (status, json.loads(body)["error"]["code"]) == (403, "not_removable")
    assert sorted(path.name for path in folder.iterdir()) == ["bob.wav", "carl.safetensors"]
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(("changes", "code"), [
    ({"consent": "  "}, "consent_required"),
    ({"consent": "x" * 2001}, "consent_required"),
    ({"name": "../ann"}, "invalid_value"),
    ({"name": "Ann"}, "invalid_value"),
    ({"name": "a" * 65}, "invalid_value"),
    ({"name": "ann\x00"}, "invalid_value"),
    ({"audio_sample": ("a.wav", clip_of(level=0.0))}, "invalid_audio"),
    ({"audio_sample": ("a.wav", clip_of(0.4))}, "invalid_audio"),
    ({"audio_sample": ("a.flac", clip_of(90, form="FLAC"))}, "invalid_audio"),
    ({"audio_sample": ("a.wav", b"")}, "invalid_audio"),
    ({"audio_sample": ("a.wav", b"no audio" * 100)}, "invalid_audio"),
    ({"audio_sample": ("a.mp4", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(5000))}, "invalid_audio"),
    ({"audio_sample": ("a.wav", clip_of() + bytes(6_000_000))}, "request_too_large"),
])  # fmt: skip
def test_what_cannot_become_a_voice(client, folder, changes, code):
    """Silence, a video, too short, too long, too large, without consent, under a name that leads elsewhere."""
    with pytest.raises(openai.APIStatusError) as caught:
        upload(client, **changes)
    assert caught.value.code == code
    assert 400 <= caught.value.status_code < 500
    assert str(folder) not in caught.value.message
    assert list(folder.iterdir()) == []


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def streaminfo(content: bytes, *, rate=24_000, channels=1, samples=48_000) -> bytes:
    """A FLAC with another header."""
    bits = rate << 44 | (channels - 1) << 41 | 15 << 36 | samples
    return patched(content, 18, bits.to_bytes(8, "big"))


def lies():
    """Clips whose headers say what is not so."""
    flac, mp3, wav = (clip_of(form=form) for form in ("FLAC", "MP3", "WAV"))
    opus = clip_of(form="OGG", subtype="OPUS")
    head = max(mp3.find(b"Xing"), mp3.find(b"Info"))
    return {
        "flac, 794 hours": streaminfo(flac, samples=2**36 - 1),
        "flac, one sample": streaminfo(flac, samples=1),
        "flac, 0 Hz": streaminfo(flac, rate=0),
        "flac, 1 Hz": streaminfo(flac, rate=1),
        "flac, 1 MHz": streaminfo(flac, rate=2**20 - 1),
        "flac, 8 channels": streaminfo(flac, channels=8),
        "flac, minutes that are not stated": streaminfo(clip_of(400, level=0, form="FLAC"), samples=0),
        **{f"flac, {n} bytes": flac[:n] for n in (4, 41, 60, len(flac) // 2, len(flac) - 1)},
        "mp3, 2^32 frames": patched(mp3, head + 8, b"\xff" * 4),
        "mp3, 4 GB": patched(mp3, head + 12, b"\xff" * 4),
        "mp3, a tag of 256 MB": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + mp3,
        "mp3, noise": mp3[:400] + np.random.default_rng(0).bytes(5000),
        "mp3, zeros within": mp3[:800] + bytes(100_000) + mp3[800:],
        **{f"mp3, {n} bytes": mp3[:n] for n in (4, 30, 100, len(mp3) // 2)},
        "ogg, 255 segments": patched(opus, 26, b"\xff"),
        **{f"ogg, {n} bytes": opus[:n] for n in (4, 27, 100, len(opus) // 2, len(opus) - 1)},
        "wav, 65,535 channels": patched(wav, 22, b"\xff\xff"),
        "wav, no channel": patched(wav, 22, bytes(2)),
        "wav, 0 Hz": patched(wav, 24, bytes(4)),
        "wav, 4 GHz": patched(wav, 24, b"\xff" * 4),
        "wav, no bits": patched(wav, 34, bytes(2)),
        "wav, 4 GB": patched(wav, 40, b"\xfe\xff\xff\xff"),
    }


def test_headers_that_lie(served, client, folder):
    """What they state is neither believed nor waited for; the server goes on and keeps nothing."""
    for name, content in lies().items():
        with pytest.raises(openai.BadRequestError) as caught:
            upload(client, audio_sample=(name, content))
        assert caught.value.code == "invalid_audio", name
        assert "\n" not in caught.value.message
        assert list(folder.iterdir()) == []
    assert served.ask("GET", "/health")[0] == 200


def test_upload_and_removal_of_one_name_at_once(served, folder):
    """Each is answered for itself, and what is there at the end is a whole voice or none."""
    head = b'--xyz\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = {b"name": b"ann", b"consent": CONSENT.encode(), b"audio_sample": clip_of(1.1)}
    body = b"".join(head % (k, b'; filename="a.wav"' * (k == b"audio_sample"), v) for k, v in parts.items())
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    found = {"POST": [], "DELETE": []}

    def run(method, path, *more):
        for _ in range(12):
            found[method].append(served.ask(method, path, *more)[0])

    threads = [
        threading.Thread(target=run, args=("POST", "/v1/audio/voices", body + b"--xyz--\r\n", headers)),
        threading.Thread(target=run, args=("POST", "/v1/audio/voices", body + b"--xyz--\r\n", headers)),
        threading.Thread(target=run, args=("DELETE", "/v1/audio/voices/ann")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found["POST"]) <= {200, 409}
    assert set(found["DELETE"]) <= {200, 404, 409}
    left = found["POST"].count(200) - found["DELETE"].count(200)
    assert left in (0, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["ann.json", "ann.safetensors", "ann.wav"] * left
    if left:
        assert "ann" in names(served)
        assert served.ask("DELETE", "/v1/audio/voices/ann")[0] == 200
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("field", ["name", "consent", "audio_sample"])
def test_fields_that_are_missing(served, field):
    parts = {"name": b"ann", "consent": CONSENT.encode(), "audio_sample": clip_of()}
    body = b""
    for name, value in parts.items():
        file = b'; filename="a.wav"' if name == "audio_sample" else b""
        head = b'--xyz\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + file + b"\r\n\r\n"
        body += b"" if name == field else head + value + b"\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    status, content, _ = served.ask("POST", "/v1/audio/voices", body + b"--xyz--\r\n", headers)
    assert (status, json.loads(content)["error"]["param"]) == (400, field)


@pytest.mark.parametrize(("headers", "found"), [
    ({"Content-Type": "multipart/form-data"}, 400), ({"Content-Type": "multipart/form-data; boundary=other"}, 400),
    ({"Content-Type": "multipart/form-data; boundary=xyz; charset=undefined"}, 415),
    ({"Content-Type": "multipart/form-datas; boundary=xyz"}, 415),
    ({"Content-Type": "application/json"}, 415), ({}, 415),
])  # fmt: skip
def test_a_form_that_is_none(served, headers, found):
    status, content, _ = served.ask("POST", "/v1/audio/voices", b"--xyz\r\nbroken", headers)
    assert (status, json.loads(content)["error"]["type"]) == (found, "invalid_request_error")


@pytest.mark.parametrize(("fields", "code"), [
    (["name", "name"], "duplicate_parameter"), (["name", "speaker"], "unknown_parameter"),
])  # fmt: skip
def test_fields_that_are_there_twice_or_not_known(served, fields, code):
    body = b"".join(b'--xyz\r\nContent-Disposition: form-data; name="%s"\r\n\r\nann\r\n' % f.encode() for f in fields)
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    status, content, _ = served.ask("POST", "/v1/audio/voices", body + b"--xyz--\r\n", headers)
    error = json.loads(content)["error"]
    assert (status, error["code"], error["param"]) == (400, code, fields[1])


def test_two_servers_give_a_name_once(served, folder, monkeypatch):
    """Of two on one folder that looked at the same time, one gets the name, and its files stay."""
    voices, samples = served.server.voices, np.sin(np.arange(24_000, dtype=np.float32))
    other = Voices(served.server.engine.speaker, folder, {})
    monkeypatch.setattr(voices, "check_new", lambda name, consent: other.add(name, consent, b"other", samples))
    with pytest.raises(ApiError, match="dora is taken"):
        served.server.engine.call(lambda: voices.add("dora", CONSENT, b"mine", samples)).result(300)
    assert json.loads((folder / "dora.json").read_text())["sha256"] == hashlib.sha256(b"other").hexdigest()
    assert sorted(path.name for path in folder.iterdir()) == ["dora.json", "dora.safetensors", "dora.wav"]
    other.remove("dora")


def test_what_cannot_be_removed(served, client, voice, monkeypatch):
    def refuse(path, missing_ok):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    status, content, _ = served.ask("DELETE", "/v1/audio/voices/ann")
    monkeypatch.undo()
    error = json.loads(content)["error"]
    assert (status, error["code"], error["message"]) == (500, "storage", "ann cannot be removed (Permission denied)")


def test_nothing_from_outside_the_folder(served, client, folder, tmp_path):
    """Links are not followed, neither to rows nor to a record, and names that are no voice's are not looked up."""
    secret = tmp_path / "secret.safetensors"
    save_tensors(secret, {EMBEDDING: served.server.engine.speaker.release.voice("casual_male")})
    (folder / "linked.safetensors").symlink_to(secret)
    (folder / "deep").mkdir()
    shutil.copy(secret, folder / "deep" / "x.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    try:
        assert set(names(served)) == {"casual_female", "casual_male", "neutral_female"}
        for name in ("linked", "deep/x", "../secret", "pipe", str(secret), str(secret.with_suffix(""))):
            with pytest.raises(openai.BadRequestError, match="there is no voice"):
                speech(client, name)
        with pytest.raises(openai.ConflictError):
            upload(client, name="linked")
        assert secret.exists()
    finally:
        shutil.rmtree(folder / "deep")
        for path in folder.iterdir():
            path.unlink()


def test_a_damaged_voice_and_one_of_another_model(served, client, folder, voice):
    record = json.loads((folder / "ann.json").read_text())
    (folder / "ann.json").write_text(json.dumps(record | {"model": "0" * 64}))
    with pytest.raises(openai.InternalServerError, match="made with another model") as caught:
        speech(client, "ann")
    assert str(folder) not in caught.value.message
    (folder / "ann.json").write_text(json.dumps(record))
    (folder / "ann.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(openai.InternalServerError, match="cannot be used") as caught:
        speech(client, "ann")
    assert caught.value.code == "voice_damaged"
    assert len(speech(client, "casual_male")) > 0


def test_a_full_disk_leaves_nothing(served, client, folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", str(folder / "ann.json"))

    monkeypatch.setattr("mlx_voxclone.serve.voice_folder.write_text_atomic", full)
    with pytest.raises(openai.APIStatusError, match="No space left") as caught:
        upload(client)
    assert caught.value.status_code == 507
    assert str(folder) not in caught.value.message
    assert list(folder.iterdir()) == []


def test_a_full_disk_while_a_clip_comes(client, folder, monkeypatch):
    """Where the larger ones lie until all of it is there."""

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", full)
    with pytest.raises(openai.APIStatusError, match="No space left") as caught:
        upload(client, audio_sample=("ann.wav", clip_of(50)))
    assert (caught.value.status_code, caught.value.code) == (507, "storage")
    assert list(folder.iterdir()) == []


def test_without_an_encoder(miniature, tmp_path):
    with serving(miniature, Options(voices=tmp_path)) as served, pytest.raises(openai.BadRequestError) as caught:
        upload(served.client())
    assert (caught.value.code, caught.value.param) == ("no_encoder", "audio_sample")


def test_a_voice_with_its_own_adapters(served, client, adapters, miniature):
    """Switched without the model being loaded again, beside voices that have none."""
    adapted = served.server.engine.call(
        lambda: (
            Speaker.load(miniature, adapters=adapters).say("papa.", "casual_female", seed=2, max_seconds=2.4).samples
        )
    ).result(300)
    engine = served.server.engine
    switch = engine._switch

    def plain():
        switch.use(None)
        return engine.speaker.say("papa.", "casual_female", seed=2, max_seconds=2.4).samples

    want = engine.call(plain).result(300)
    found = np.frombuffer(speech(client, "casual_female"), "<i2") / 32768
    assert len(want) != len(adapted) or not np.allclose(want, adapted, atol=1e-3)
    np.testing.assert_allclose(found, adapted.clip(-1, 1), atol=2e-4)
    assert len(speech(client, "casual_male")) > 0
