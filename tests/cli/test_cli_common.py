"""The dispatcher, exit codes and one-line errors of every command."""

import argparse
import errno
import json
import os
import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_voxclone import cli
from mlx_voxclone.cli import common
from mlx_voxclone.cli.options import add_shared
from mlx_voxclone.errors import CheckpointError, ConfigError
from mlx_voxclone.process.amounts import format_bytes, format_seconds


def run(function, argv=()):
    return common.entry(function)(list(argv))


def raising(error):
    def function(argv):
        raise error

    return function


def test_entry_returns_the_code_and_hands_over_argv():
    assert run(lambda argv: None) == 0
    assert run(lambda argv: 1) == 1
    seen = []
    run(seen.extend, ["--a", "b"])
    assert seen == ["--a", "b"]


def test_entry_reads_sys_argv_when_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["voxclone", "x", "y"])
    monkeypatch.setattr(common, "as_process", lambda function: function())  # this process is pytest's
    seen = []
    assert common.entry(seen.extend)(None) == 0
    assert seen == ["x", "y"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CheckpointError("a.safetensors: cut off\nafter 3 bytes"), 2, "error: a.safetensors: cut off; after 3 bytes"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"),
            2,
            "error: a/b: no such file or directory",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "error: a/b: permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"a"), 2, "error: a: is a directory"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/x"),
            2,
            "error: no space left on the disk of out/x; free",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "error: no space left on the disk of the output; free"),
        (
            OSError(errno.ENOSPC, "no space left in runs (needs 8 GB)", "x"),
            2,
            "error: no space left in runs (needs 8 GB)",
        ),
        (OSError(errno.EIO, "Input/output error"), 2, "error: a file: input/output error"),
        (OSError(errno.EFBIG, "File too large", "out/x"), 2, "error: out/x: larger than files may be here"),
        (MemoryError(), 2, "error: not enough memory; close other programs"),
        (RuntimeError("[malloc] Unable to allocate 9 bytes."), 2, "error: not enough memory ([malloc] Unable"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("go on with --resume runs/a"), 130, "interrupted: go on with --resume runs/a"),
    ],
)
def test_one_line_and_exit_code(error, code, line, capsys):
    assert run(raising(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_link_to_itself_is_one_line(tmp_path, capsys):
    loop = tmp_path / "a.jsonl"
    loop.symlink_to(loop.name)

    @common.entry
    def main(argv):
        loop.resolve(strict=True)

    assert main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {loop}: ")
    assert error.count("\n") == 1


def test_our_own_defects_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda argv: 1 // 0)
    with pytest.raises(OSError):  # no file: nothing the user could mend
        run(raising(OSError(errno.EBADF, "Bad file descriptor")))


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("VOXCLONE_DEBUG", "1")
    assert run(raising(ConfigError("bad"))) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: bad\n")


def test_broken_pipe_is_quiet():
    code = (
        "import sys; from mlx_voxclone.cli.common import entry\n"
        "main = entry(lambda argv: [print('x' * 100) for _ in range(10000)] and 0)\n"
        "sys.exit(main([]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def options(argv):
    parser = common.Parser("demo", "what it does")
    add_shared(parser, "--model", required=True, default=None)
    add_shared(parser, "--device", "--seed")
    parser.add_argument("--rate", type=float, default=0.5, help="a rate in Hz")
    parser.add_argument("--dry-run", action="store_true", help="only say")
    return parser.parse_args(argv)


def test_help_shows_defaults(capsys):
    assert run(options, ["--help"]) == 0
    out = capsys.readouterr().out
    assert "a rate in Hz (default: 0.5)" in out
    assert "(default: auto)" in out.replace("\n", " ")
    assert "None" not in out
    assert "False" not in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "--model"),
        (["--model", "m", "--seed", "-1"], "whole number"),
        (["--model", "m", "--device", "tpu"], "tpu"),
        (["--model", "m", "--dry"], "--dry"),  # no abbreviations
    ],
)
def test_a_wrong_option_is_one_line(argv, words, capsys):
    assert run(options, argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_defaults_left_to_a_configuration():
    parser = argparse.ArgumentParser()
    add_shared(parser, "--device", "--seed", default=None)
    args = parser.parse_args([])
    assert args.device is None
    assert args.seed is None


def test_a_command_checks_its_options_before_it_runs(capsys):
    done = []

    def options(parser):
        parser.add_argument("--rate", type=float, default=0.5)
        add_shared(parser, "--device", "--quiet")

    def check(parser, options):
        if options.rate < 0:
            parser.error("--rate must not be negative")

    @common.command("What it does.", options, check)
    def main(options):
        common.message("not said when quiet")
        done.append((options.rate, mx.default_device()))
        return 1

    before = mx.default_device()
    try:
        assert main(["--rate", "2", "--device", "cpu", "--quiet"]) == 1
    finally:
        mx.set_default_device(before)
    assert done == [(2.0, mx.cpu)]
    assert capsys.readouterr().err == ""
    assert main(["--rate", "-1"]) == 2
    assert capsys.readouterr().err == "error: --rate must not be negative (see voxclone test_cli_common --help)\n"
    assert main.parser().description == "What it does."
    assert len(done) == 1


def test_set_device(monkeypatch):
    before = mx.default_device()
    try:
        assert common.set_device("cpu") == "cpu"
        assert mx.default_device() == mx.cpu
        monkeypatch.setattr(mx.metal, "is_available", lambda: False)
        if hasattr(mx, "cuda"):
            monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
        assert common.set_device("auto") == "cpu"
        with pytest.raises(ConfigError, match="neither Metal nor CUDA"):
            common.set_device("gpu")
        monkeypatch.setattr(mx.metal, "is_available", lambda: True)
        chosen = []
        monkeypatch.setattr(mx, "set_default_device", chosen.append)
        assert common.set_device("auto") == "gpu"
        assert common.set_device("cpu") == "cpu"
        assert chosen == [mx.gpu, mx.cpu]
    finally:
        monkeypatch.undo()
        mx.set_default_device(before)


def test_message_goes_to_stderr_unless_quiet(capsys):
    common.message("reading")
    try:
        common.set_quiet(True)
        common.message("more")
    finally:
        common.set_quiet(False)
    assert capsys.readouterr() == ("", "reading\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.844, "0.84 s"),
        (9.996, "10.0 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (-2, "-2.00 s"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (8_000_000_000, "8.00 GB"),
        (25_300_000, "25.3 MB"),
        (123e6, "123 MB"),
    ],
)
def test_format_bytes(n, text):
    assert format_bytes(n) == text


def test_overview_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("train", "bake", "encode", "decode", "say", "prepare", "micro"):
        assert f"\n  {name} " in out
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0


@pytest.mark.parametrize(("name", "near"), [("trian", "did you mean train?"), ("zzz", "choose from prepare, train")])
def test_unknown_command_names_the_nearest(name, near, capsys):
    assert cli.main([name]) == 2
    err = capsys.readouterr().err
    assert near in err
    assert err.count("\n") == 1


HELPS = """
import contextlib, io, json, sys
from mlx_voxclone import cli
HEAVY = {'mlx_lm', 'transformers', 'scipy', 'matplotlib', 'mistral_common', 'gradio', 'huggingface_hub'}
found = {}
for name in cli.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.main([name, '--help'])
    found[name] = code, out.getvalue().partition('\\n')[0], sorted(HEAVY & sys.modules.keys())
print(json.dumps(found))
"""


def test_help_of_each_command_is_fast():
    """`--help` imports none of the heavy packages; all commands in one process, so that it starts once."""
    done = subprocess.run([sys.executable, "-c", HELPS], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == cli.COMMANDS.keys()
    for name, (code, usage, heavy) in found.items():
        assert code == 0
        assert usage.startswith(f"usage: voxclone {name} ")
        assert heavy == [], f"after {name}"
