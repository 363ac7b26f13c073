"""The stand-in for python: what it starts has the caller's files, directory and environment, and ends as it says."""

import signal
import subprocess

import pytest

from tests.warm_python import warm_python

pytestmark = pytest.mark.slow
ECHO = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['MINE'], 'torch' in sys.modules, sys.stdin.read())"


def test_arguments_directory_environment_and_files_are_the_callers(tmp_path):
    (tmp_path / "echo.py").write_text(ECHO)
    command = [warm_python(), "echo.py", "a b", "c"]
    done = subprocess.run(command, cwd=tmp_path, env={"MINE": "1"}, input="typed", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"['a b', 'c'] {tmp_path} 1 True typed\n"


@pytest.mark.parametrize(
    ("code", "expected", "says"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('words')", 1, "words\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_it_ends_as_the_forked_process_does(tmp_path, code, expected, says):
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([warm_python(), str(tmp_path / "script.py")], capture_output=True, text=True)
    assert done.returncode == expected
    assert done.stderr.endswith(says)


def test_signals_are_passed_on_and_whoever_kills_it_kills_the_forked_process(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'got it\\n'))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.1)\n"
    )
    command = [warm_python(), str(tmp_path / "script.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "got it\n"
        process.kill()
        assert process.stdout.read() == ""  # the forked process has closed it
    assert process.returncode == -signal.SIGKILL
