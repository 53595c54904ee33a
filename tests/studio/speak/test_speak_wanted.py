"""What a form asks to be spoken: read, and refused by field."""

import pytest
from short_speeches import FORM

from mlx_voxclone.miniature.micro import SPEAKING_FILES
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.speak.voices import source_of, voices_of
from mlx_voxclone.studio.speak.wanted import MOST_LETTERS, wanted


def test_what_is_asked_for(me):
    asked = wanted(me, FORM | {"guidance": "1,5", "steps": "12"})
    assert (asked.seed, asked.steps, asked.guidance, asked.title) == (3, 12, 1.5, "alto")
    assert [one.text[:4] for one in asked.chunks] == ["papa", "tara", "lesu"]
    assert wanted(me, FORM | {"text": "Guten Morgen.\r\n\r\nWie geht es?", "language": "de"}).chunks[0].pause > 0.5
    assert wanted(me, FORM | {"seed": ""}).seed != wanted(me, FORM | {"seed": ""}).seed


@pytest.mark.parametrize(
    ("changed", "field", "key"),
    [
        ({"text": " \n"}, "text", "empty"),
        ({"text": "..."}, "text", "no_words"),
        ({"text": "a" * (MOST_LETTERS + 1)}, "text", "too_long"),
        ({"text": "a\ufffdb\0"}, "text", "damaged"),
        ({"voice": ""}, "voice", "choose_voice"),
        ({"voice": "model:nobody"}, "voice", "voice_gone"),
        ({"voice": "model:../alto"}, "voice", "voice_gone"),
        ({"voice": "own:0123456789ab"}, "voice", "voice_gone"),
        ({"voice": "files:../x.pt"}, "voice", "voice_gone"),
        ({"voice": "other:alto"}, "voice", "voice_gone"),
        ({"language": "xx"}, "language", "choose_language"),
        ({"seed": "-1"}, "seed", "bad_seed"),
        ({"seed": "1.5"}, "seed", "bad_seed"),
        ({"seed": "²"}, "seed", "bad_seed"),
        ({"seed": str(2**63)}, "seed", "bad_seed"),
        ({"steps": "0"}, "steps", "bad_steps"),
        ({"steps": "many"}, "steps", "bad_steps"),
        ({"guidance": "nan"}, "guidance", "bad_guidance"),
        ({"guidance": "-1"}, "guidance", "bad_guidance"),
        ({"guidance": "strong"}, "guidance", "bad_guidance"),
    ],
)
def test_a_mistake_names_its_field(me, changed, field, key):
    with pytest.raises(Mistake) as caught:
        wanted(me, FORM | changed)
    assert (caught.value.field, caught.value.key) == (field, f"speak.{key}")


def test_without_a_model_that_is_said(me, tmp_path):
    me.change_settings(model=None)
    with pytest.raises(Mistake, match="no_model"):
        wanted(me, FORM)
    me.change_settings(model=str(tmp_path / "gone"))
    assert voices_of(me) == []
    with pytest.raises(Mistake, match="model_gone"):
        wanted(me, FORM)


def test_a_model_of_the_hub_is_the_one_that_was_fetched(me, monkeypatch):
    me.change_settings(model="somebody/voxtral", model_kind="hub")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda model, file: None)
    assert voices_of(me) == []
    with pytest.raises(Mistake, match="model_gone"):
        wanted(me, FORM)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda model, file: str(SPEAKING_FILES / file))
    assert source_of(me, "model:alto").model == SPEAKING_FILES
