"""What all tests rely on: signals that arrive."""

import signal


def pytest_configure() -> None:
    """Undo what `nohup` and a shell's `&` do: tests send signals to child processes, which would ignore them too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
