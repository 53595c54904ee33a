"""Signals and streams of a real process: one line and the right code, whatever ends it and wherever."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

PROLOGUE = """
import sys, time
from mlx_voxclone.cli import common

def ready():
    print("ready", flush=True)

@common.entry
def main(argv):
    work()
"""


def start(work: str, *, before: str = "", ignored=(), closed=(), **options) -> subprocess.Popen:
    """A process whose command is `work`; `before` it, the rest of what the process does first."""

    def settle() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # off in a shell's background jobs
        for number in closed:
            os.close(number)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    body = textwrap.indent(textwrap.dedent(work), "    ")
    code = f"{PROLOGUE}\ndef work():\n{body}\n{textwrap.dedent(before)}\nsys.exit(main())"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", code], text=True, preexec_fn=settle, **streams)


def ended(process: subprocess.Popen, *numbers: int) -> tuple[int, str]:
    """Send signals once it is ready; its exit code and stderr."""
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
    _, said = process.communicate(timeout=30)
    return process.returncode, said


def rest(process: subprocess.Popen) -> tuple[str, str]:
    """What it says after the lines that were read, once it has ended: `communicate` loses what was read ahead."""
    said, errors = process.stdout.read(), process.stderr.read()
    process.wait(30)
    return said, errors


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "interrupted\n"),
        (signal.SIGTERM, 143, "interrupted (SIGTERM)\n"),
        (signal.SIGHUP, 129, "interrupted (SIGHUP)\n"),
    ],
)
def test_what_ends_a_command_clears_up_and_says_one_line(number, code, line, tmp_path):
    work = f"""
        from mlx_voxclone.process.temporaries import made
        from pathlib import Path
        with made(Path({str(tmp_path)!r}) / "out", directory=True):
            ready()
            time.sleep(60)
    """
    assert ended(start(work), number) == (code, line)
    assert not list(tmp_path.iterdir())


def test_before_the_work_it_is_the_end_at_once():
    """While a command's module is imported: no traceback of the import, however deep."""
    before = """
        import importlib
        from mlx_voxclone import cli

        def slow(name):
            ready()
            try:
                time.sleep(60)
            except BaseException:  # as a library may do
                pass
        importlib.import_module = slow
        sys.argv = ["voxclone", "say"]
        main = cli.main
    """
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        got, said = ended(start("pass", before=before), number)
        assert got == code
        assert said.startswith("interrupted")
        assert said.count("\n") == 1


@pytest.mark.slow
def test_twice_ctrl_c_leaves_at_once_wherever_the_command_is():
    work = """
        from mlx_voxclone.process.signals import held_back
        with held_back():
            ready()
            time.sleep(3)  # the first one is held back meanwhile
            ready()
            time.sleep(60)
    """
    process = start(work)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert ended(process, signal.SIGINT) == (130, "interrupted\n")


def test_a_second_signal_at_the_same_moment_is_the_first_once_more():
    """Wrappers pass on what the terminal has sent to all."""
    work = """
        try:
            ready()
            time.sleep(60)
        finally:
            ready()
            time.sleep(1)
            print("saved", flush=True)
    """
    process = start(work, before="common.signals._SAME = 30")  # a busy machine is no reason to tell them apart
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    said, errors = rest(process)
    assert (said, errors, process.returncode) == ("saved\n", "interrupted\n", 130)


def test_what_the_caller_has_switched_off_stays_off():
    work = """
        ready()
        time.sleep(0.5)
        print("done")
    """
    process = start(work, ignored=(signal.SIGHUP,))  # as nohup does
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert rest(process) == ("done\n", "")
    assert process.returncode == 0


def test_an_interruption_that_a_destructor_swallows_is_not_lost():
    work = """
        class Slow:
            def __del__(self):
                ready()
                time.sleep(2)
        slow = Slow()
        del slow
        time.sleep(60)
    """
    assert ended(start(work), signal.SIGINT) == (130, "interrupted\n")


def test_an_interruption_that_a_library_makes_another_error_of_is_one():
    work = """
        try:
            ready()
            time.sleep(60)
        except KeyboardInterrupt:
            raise ImportError("initialisation failed") from None
    """
    assert ended(start(work), signal.SIGTERM) == (143, "interrupted (SIGTERM)\n")


def test_held_back_signals_come_after_the_block():
    from mlx_voxclone.process.signals import held_back

    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            assert not seen
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt), held_back():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- streams -------------------------------------------------------------------------------------------------------


def test_messages_without_a_reader_end_a_command_as_a_closed_terminal_does():
    work = """
        try:
            ready()
            for _ in range(600):
                print("step", file=sys.stderr, flush=True)
                time.sleep(0.1)
        finally:
            print("saved")
    """
    process = start(work)
    assert process.stdout.readline() == "ready\n"
    process.stderr.close()
    assert process.stdout.read() == "saved\n"
    assert process.wait(timeout=30) == 141
    process.stdout.close()


ORDERS = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202eb\r\tc"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202eb"


def test_orders_to_a_terminal_are_shown_and_not_given():
    work = f"""
        from mlx_voxclone.errors import DataError
        from tqdm import tqdm
        print({ORDERS!r})
        sys.stdout.buffer.write(b"\\x1b")
        tqdm(total=2, file=sys.stderr).close()
        common.message({ORDERS!r})
        raise DataError({ORDERS!r})
    """
    results, errors = start(work).communicate(timeout=30)
    assert results.replace("\x1b", "") == f"{SHOWN}\\r\tc\n"
    assert results.count("\x1b") == 1  # the byte
    assert errors.splitlines()[-2:] == [f"{SHOWN}\\r\tc", f"error: {SHOWN}; c"]
    assert "it/s" in errors
    assert "\x1b" not in errors


def test_a_reader_that_has_gone_is_found_without_writing():
    work = """
        from mlx_voxclone.process.streams import check_reader
        check_reader()
        ready()
        for _ in range(600):
            time.sleep(0.1)
            check_reader()
    """
    process = start(work)
    assert process.stdout.readline() == "ready\n"
    process.stderr.close()
    assert process.wait(timeout=30) == 141
    process.stdout.close()


def test_messages_that_a_full_disk_refuses_are_dropped():
    work = """
        print("a message", file=sys.stderr, flush=True)
        print("done")
    """
    with open("/dev/full", "w") as full:
        process = start(work, stderr=full)
        assert process.communicate(timeout=30)[0] == "done\n"
    assert process.returncode == 0


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_a_file_never_takes_the_place_of_a_closed_stream(closed, tmp_path):
    """Else what a library prints would go into it."""
    work = f"""
        import os
        with open({str(tmp_path / "out")!r}, "w") as file:
            print("result")
            print("message", file=sys.stderr)
            os.write(1, b"noise")
            os.write(2, b"noise")
            file.write("content")
    """
    process = start(work, closed=closed)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert (tmp_path / "out").read_text() == "content"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["nonsense"], ["train", "--help"]])
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_is_no_traceback(arguments, closed):
    code = "import sys; from mlx_voxclone.cli import main; sys.exit(main())"
    reading, writing = os.pipe()
    os.close(reading)
    other = "stderr" if closed == "stdout" else "stdout"
    where = {closed: writing, other: subprocess.PIPE}
    ran = subprocess.run([sys.executable, "-c", code, *arguments], timeout=60, text=True, **where)
    os.close(writing)
    assert ran.returncode in (0, 2, 141)
    assert "Traceback" not in str(getattr(ran, other))
    assert "Exception" not in str(getattr(ran, other))


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_that_lacks_characters(settings):
    work = r"""
        print("J\u00fcrgen \udcff")
        print("J\u00fcrgen \udcff", file=sys.stderr)
    """
    process = start(work, env={**os.environ, **settings, "PYTHONCOERCECLOCALE": "0"}, encoding="latin-1")
    for text in process.communicate(timeout=30):
        assert text == "J\\xfcrgen \\udcff\n"
    assert process.returncode == 0
