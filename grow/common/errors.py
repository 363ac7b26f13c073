"""The errors that a user can cause. Each message says what was expected, what was found, where, and what to do."""


class GrowError(Exception):
    """Base of every error that is reported as one paragraph and an exit code instead of a traceback."""

    exit_code = 1


class ConfigError(GrowError):
    """The configuration asks for something impossible; nothing was started."""

    exit_code = 2


class GrowthError(GrowError):
    """The source cannot be grown into the target with these settings."""

    exit_code = 2


class DataError(GrowError):
    """Token shards or texts are missing, damaged, or do not fit the model."""

    exit_code = 77


class CheckpointError(GrowError):
    """A model or checkpoint directory is missing, incomplete or damaged."""

    exit_code = 77


class PreemptedError(GrowError):
    """The run was preempted: the system is taking the machine away. The same command continues the run."""

    exit_code = 75


class DivergedError(GrowError):
    """The loss is no longer finite; starting the same run again would end the same way."""

    exit_code = 76
