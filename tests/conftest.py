"""Set-up for all tests: child processes can be interrupted by signals, and none is left behind."""

import signal

from tests.warm_python import stop


def pytest_configure() -> None:
    """Restore the signals that `nohup` and a shell's `&` ignore: child processes of tests would ignore them too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """End the process that tests fork theirs from."""
    stop()
