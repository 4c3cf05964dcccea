"""The errors a user can cause: each message is one line that names the field, the value got and the value wanted."""


class FednasError(Exception):
    """Base of every error that a user can cause; the command line prints it on one line and exits with 2."""


class ConfigError(FednasError):
    """A setting, or a combination of settings, that no run can have."""


class DataError(FednasError):
    """Data that is missing, broken, or cannot be divided as asked."""


class NetworkError(FednasError):
    """A network whose widths cannot be searched, with the path of the variable that shows it."""


class RunError(FednasError):
    """A run directory that cannot be used as asked."""


class TrainingError(FednasError):
    """Training that went astray, for instance scores that are not finite numbers."""


class DeviceError(FednasError):
    """Devices or hosts that cannot work together as asked."""


class Interrupted(Exception):
    """A run that was asked to stop and has saved what it needs to go on."""
