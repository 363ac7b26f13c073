"""What all tests rely on: signals that arrive, and no process left behind."""

import signal

from tests.warm_python import stop


def pytest_configure() -> None:
    """Undo what `nohup` and a shell's `&` do: tests send signals to child processes, which would ignore them too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """End the process that tests fork theirs from."""
    stop()
