"""OpenAI's own client against the server on loopback, unchanged: speech in every format, streams, voices, errors."""

import base64
import io
import json
import threading

import numpy as np
import openai
import pytest
import scipy.signal
import soundfile
from served import SECONDS, serving

from mlx_voxclone.audio.io import wav_data
from mlx_voxclone.serve.server import Options

TEXT, VOICE = "papa mino", "casual_male"


@pytest.fixture(scope="module")
def served(miniature):
    with serving(miniature, Options(rows=4, waiting=8)) as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    return served.client()


@pytest.fixture(scope="module")
def want(served) -> np.ndarray:
    """int16: what `say` writes of the text with seed 2."""
    said = served.say(TEXT, VOICE, 2)
    assert said.frames == round(SECONDS * 12.5)
    return wav_data("", said.samples, float32=False)


def asked(client, response_format, **more):
    seed = {"seed": 2} | more.pop("extra", {})
    return client.audio.speech.create(
        model="tts-1", voice=VOICE, input=TEXT, response_format=response_format, extra_body=seed, **more
    )


@pytest.mark.parametrize("stream", [None, True, False])
def test_pcm_and_wav_are_what_say_writes(client, want, stream):
    extra = {} if stream is None else {"stream": stream}
    pcm = asked(client, "pcm", extra=extra)
    np.testing.assert_array_equal(np.frombuffer(pcm.content, "<i2"), want)
    wav = asked(client, "wav", extra=extra)
    assert wav.response.headers["content-type"] == "audio/wav"
    assert ("content-length" in wav.response.headers) == (not stream)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(wav.content), dtype="int16")[0], want)


@pytest.mark.parametrize(("name", "media", "form", "least"), [
    ("mp3", "audio/mpeg", "MP3", 0.99), ("opus", "audio/ogg", "OGG", 0.9), ("flac", "audio/flac", "FLAC", 1.0),
])  # fmt: skip
def test_compressed_formats_hold_the_same_sound(client, want, name, media, form, least):
    answer = asked(client, name)
    assert answer.response.headers["content-type"] == media
    with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
        assert (file.format, file.samplerate, file.channels) == (form, 24000, 1)
        samples = file.read()
    assert 0 <= len(samples) - len(want) <= 3000  # what an encoder adds at the ends
    lag = int(np.argmax(scipy.signal.correlate(samples, want[:40000] / 32768, "valid", "fft")))
    best = np.corrcoef(samples[lag : lag + 40000], want[:40000])[0, 1]
    assert best >= least - 1e-6


def test_the_format_is_mp3_unless_asked_for(client):
    answer = client.audio.speech.create(model="miniature", voice=VOICE, input=TEXT)
    assert answer.response.headers["content-type"] == "audio/mpeg"


def test_a_stream_begins_before_it_is_complete(client, want):
    call = client.audio.speech.with_streaming_response.create
    with call(model="tts-1", voice=VOICE, input=TEXT, response_format="pcm", extra_body={"seed": 2}) as answer:
        parts = list(answer.iter_bytes(chunk_size=None))
    assert len(parts) >= 2
    assert len(parts[0]) <= 10 * 1920 * 2
    np.testing.assert_array_equal(np.frombuffer(b"".join(parts), "<i2"), want)


def test_events(client, want):
    answer = asked(client, "pcm", stream_format="sse")
    assert answer.response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert len(deltas) == 2
    audio = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    np.testing.assert_array_equal(np.frombuffer(audio, "<i2"), want)
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["output_tokens"] == len(want) // 1920
    assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + len(want) // 1920


def test_several_clients_at_once(served, want):
    """Each gets what it gets alone."""
    found = {}

    def ask(seed):
        found[seed] = served.client().audio.speech.create(
            model="tts-1", voice=VOICE, input=TEXT, response_format="pcm", extra_body={"seed": seed}
        ).content  # fmt: skip

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    np.testing.assert_array_equal(np.frombuffer(found[2], "<i2"), want)
    assert len({bytes(content) for content in found.values()}) == 6


def test_a_long_text(client):
    """More than a chunk, as events and as a file."""
    text = "papa mino lesu tara koni sewu, " * 9
    events = client.audio.speech.create(
        model="tts-1", voice=VOICE, input=text, response_format="pcm", stream_format="sse"
    ).text
    audio = [json.loads(line.removeprefix("data: ")).get("audio", "") for line in events.split("\n\n") if line]
    assert [bool(part) for part in audio] == [True, True, False]
    whole = client.audio.speech.create(model="tts-1", voice=VOICE, input=text, response_format="flac").content
    joined = np.frombuffer(b"".join(map(base64.b64decode, audio)), "<i2")
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(whole), dtype="int16")[0], joined)


def test_models_and_voices(client, served):
    assert [model.id for model in client.models.list()] == ["miniature"]
    assert client.models.retrieve("miniature").id == "miniature"
    status, body, _ = served.ask("GET", "/v1/audio/voices")
    found = json.loads(body)
    assert (status, found["voices"][0]) == (200, {"id": "casual_female", "name": "casual_female"})
    assert [voice["id"] for voice in found["data"]] == ["casual_female", "casual_male", "neutral_female"]
    assert json.loads(served.ask("GET", "/v1/audio/voices/casual_male")[1])["object"] == "audio.voice"
    assert json.loads(served.ask("GET", "/v1/audio/models")[1])["models"] == [{"id": "miniature"}]


@pytest.mark.parametrize("voice", ["CASUAL_MALE", {"id": VOICE}])
def test_a_voice_by_its_id_and_in_any_case(client, want, voice):
    answer = client.audio.speech.create(
        model="tts-1", voice=voice, input=TEXT, response_format="pcm", extra_body={"seed": 2}
    )
    np.testing.assert_array_equal(np.frombuffer(answer.content, "<i2"), want)


def test_errors_are_those_of_the_client(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
    assert (caught.value.param, caught.value.code) == ("voice", "voice_not_found")
    assert "casual_male" in caught.value.message
    with pytest.raises(openai.NotFoundError, match="there is no model") as caught:
        client.audio.speech.create(model="whisper-1", voice=VOICE, input=TEXT)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="at its own pace") as caught:
        client.audio.speech.create(model="tts-1", voice=VOICE, input=TEXT, speed=1.5)
    assert caught.value.param == "speed"


def test_health_and_metrics(served, client):
    asked(client, "pcm")
    status, body, _ = served.ask("GET", "/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    status, body, headers = served.ask("GET", "/metrics")
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/plain")
    counts = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
    assert float(counts["voxclone_spoken_total"]) >= 1
    assert float(counts["voxclone_frames_total"]) >= 30
    assert float(counts['voxclone_requests_total{path="/v1/audio/speech",status="200"}']) >= 1
    assert float(counts["voxclone_first_sound_seconds_count"]) >= 1
