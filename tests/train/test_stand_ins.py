"""Files that stand in another one's place, and transcripts that are no plain files: said by name."""

import os

import pytest
from recordings import folder_of, rejections, talk

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import read_audio, write_wav
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.torch_file import read_pt
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.files.atomic import atomic_file
from mlx_voxclone.miniature.micro import ENCODER_FILE
from mlx_voxclone.settings.config import load_run_config

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 120044\n"
STAND_INS = {
    "lfs": (POINTER, "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    "annex": ("/annex/objects/SHA256E-s1--0.wav\n", "a git-annex pointer"),
    "html": ("\n <!DOCTYPE html><html><body>Sign in</body></html>", "a web page (a login or an error"),
    "json": ('{"error": "Invalid credentials"}', "a server's message"),
    "text": ("Invalid username or password.", "a server's message"),
    "plist": ("bplist00" + "\0" * 100, "a property list of macOS"),
}


@pytest.mark.parametrize("kind", STAND_INS)
def test_audio_weights_and_voices(tmp_path, kind):
    content, what = STAND_INS[kind]
    for name, read, error in (
        ("a.wav", audio_info, AudioError),
        ("a.mp3", read_audio, AudioError),
        ("a.safetensors", TensorFile, CheckpointError),
        ("a.pt", read_pt, CheckpointError),
    ):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(error) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: {what}")


@pytest.mark.parametrize("name", ["consolidated.safetensors", "params.json", "tekken.json"])
def test_files_of_a_model(tmp_path, miniature, name):
    for path in miniature.iterdir():
        if path.is_file() and path.name != ENCODER_FILE:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).unlink()
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(CheckpointError, match=f"{name}: a Git LFS pointer"):
        Release(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / f".{name}.icloud").write_bytes(b"bplist00")
    with pytest.raises(CheckpointError, match=f"{name}: still in iCloud: download it first"):
        Release(tmp_path)


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "a.txt", "c.yaml"])
@pytest.mark.parametrize("kind", ["lfs", "html"])
def test_texts(tmp_path, name, kind):
    content, what = STAND_INS[kind]
    (tmp_path / "a.wav").touch()
    (tmp_path / name).write_text(content)
    if name == "c.yaml":
        with pytest.raises(ConfigError) as caught:
            load_run_config(tmp_path / name)
    else:
        with pytest.raises(DataError) as caught:
            read_listing(tmp_path if name == "a.txt" else tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {what}")


def test_a_transcript_may_read_like_a_servers_message(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.txt").write_text("Unauthorized people must leave.")
    assert read_listing(tmp_path).entries[0].text == "Unauthorized people must leave."


def test_recordings_that_are_still_in_icloud(tmp_path):
    folder = folder_of(tmp_path / "r", a=talk(2), b=talk(2))
    for name in ("c.wav", "d.wav", "sub/e.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).with_name(f".{(folder / name).name}.icloud").write_bytes(b"bplist00")
    assert "3 files are still in iCloud, such as c.wav: download them first" in read_listing(folder).notes
    (folder / "m.jsonl").write_text('{"audio": "a.wav"}\n{"audio": "c.wav"}\n')
    prepare(folder / "m.jsonl", tmp_path / "out")
    assert rejections(tmp_path / "out")["c.wav"]["detail"].endswith(
        "c.wav: still in iCloud: download it first (in Finder, or with `brctl download`)"
    )
    (folder / ".metadata.csv.icloud").write_bytes(b"bplist00")
    with pytest.raises(DataError, match="metadata.csv: still in iCloud"):
        read_listing(folder)


def test_a_folder_that_is_all_in_icloud(tmp_path):
    (tmp_path / ".a.wav.icloud").touch()
    with pytest.raises(DataError, match="no audio in this folder; 1 file is still in iCloud, such as a.wav"):
        read_listing(tmp_path)


def test_broken_links_name_what_they_lead_to(tmp_path):
    (tmp_path / "a.wav").symlink_to("gone.wav")
    (tmp_path / "b.wav").symlink_to("../.git/annex/objects/x")
    with pytest.raises(AudioError, match="a link to gone.wav, which does not exist"):
        audio_info(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="a git-annex link whose file is not here"):
        audio_info(tmp_path / "b.wav")


# Transcripts


def test_a_pipe_is_no_transcript(tmp_path):
    (tmp_path / "a.wav").touch()
    for name in ("a.txt", "m.jsonl", "m.csv"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=r"a\.txt: not a plain file .* beside a\.wav"):
        read_listing(tmp_path)
    for name in ("m.jsonl", "m.csv"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read \(not a plain file but a pipe or a device\)"):
            read_listing(tmp_path / name)
    os.rename(tmp_path / "m.jsonl", tmp_path / "manifest.jsonl")
    with pytest.raises(DataError, match=r"manifest.jsonl: cannot be read"):
        read_listing(tmp_path)


def test_a_transcript_is_no_link_to_elsewhere(tmp_path):
    folder, outside = tmp_path / "r", tmp_path / "private"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("Nobody should learn this.")
    (folder / "a.wav").touch()
    (folder / "a.txt").symlink_to(outside / "secret.txt")
    for source in (folder, folder / "a.wav"):
        with pytest.raises(DataError, match=rf"a\.txt: a link to {outside / 'secret.txt'}, outside of {folder}"):
            read_listing(source)


def test_links_within_the_folder_and_beside_the_recording_are_followed(tmp_path):
    """A dataset of the hub's cache is all links, into one folder elsewhere."""
    store, folder = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    (folder / "texts").mkdir(parents=True)
    for name, content in (("aa", ""), ("bb", "Linked words.")):
        (store / name).write_text(content)
    (folder / "a.wav").symlink_to(store / "aa")
    (folder / "a.txt").symlink_to(store / "bb")
    (folder / "texts/b.txt").write_text("Own words.")
    (folder / "b.wav").touch()
    (folder / "b.txt").symlink_to("texts/b.txt")
    assert [e.text for e in read_listing(folder).entries] == ["Linked words.", "Own words."]


def test_a_huge_file_is_no_transcript(tmp_path):
    (tmp_path / "a.wav").touch()
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(DataError, match=r"a\.txt: too large for the text of a recording"):
        read_listing(tmp_path)


def test_texts_beside_are_found_under_other_spellings(tmp_path):
    for name, text in (("ZOOM1.WAV", "ZOOM1.TXT"), ("caf\u00e9.wav", "cafe\u0301.txt"), ("b.wav", "B.Txt")):
        (tmp_path / name).touch()
        (tmp_path / text).write_text(f"Text of {name}.")
    for entry in read_listing(tmp_path).entries:
        assert entry.text == f"Text of {entry.audio.name}."
    (tmp_path / "zoom1.wav").touch()
    texts = {entry.audio.name: entry.text for entry in read_listing(tmp_path).entries}
    assert texts["ZOOM1.WAV"] == "Text of ZOOM1.WAV."
    assert texts["zoom1.wav"] is None  # the text has an owner of just its name


# Long names


def test_one_long_name_does_not_end_the_others(tmp_path):
    han = "".join(chr(0x4E00 + 7 * k) for k in range(83))
    folder = folder_of(tmp_path / "r", a=talk(2), **{han: talk(2, 1), f"{han[:82]}乙": talk(2, 2)})
    os.rename(folder / "a.wav", folder / f"{'n' * 251}.wav")
    listed = [f'{{"audio": "{name}"}}' for name in sorted(os.listdir(folder))]
    (tmp_path / "m.jsonl").write_text("\n".join([*listed, f'{{"audio": "{"x" * 400}.wav"}}']).replace(': "', ': "r/'))
    report = prepare(tmp_path / "m.jsonl", tmp_path / "out")
    assert sum(report.clips.values()) == 3
    assert report.rejected == {"missing": 1}
    (line,) = rejections(tmp_path / "out").values()
    assert "no file has a name of 404 bytes (255 at the most)" in line["detail"]
    names = os.listdir(tmp_path / "out" / "clips")
    assert len(names) == 3
    assert max(len(os.fsencode(name)) for name in names) < 100


@pytest.mark.parametrize("name", ["x" * 251, "字" * 83 + "é"])
def test_a_temporary_of_a_long_name_has_a_short_one(tmp_path, name):
    write_wav(tmp_path / f"{name}.wav", talk(0.1))
    with atomic_file(tmp_path / f"{name}.bin") as file:
        file.write(b"x")
    assert sorted(os.listdir(tmp_path)) == sorted([f"{name}.wav", f"{name}.bin"])
