"""Errors a user can mend: each message names the offending value and the mend."""


class PellucidError(Exception):
    """Base of every error that Pellucid raises on purpose; the command line prints it as one line."""


class OptionError(PellucidError):
    """An argument or option has a value that cannot work."""


class DataError(PellucidError):
    """A file or a record of data is missing, malformed or empty."""


class ModelError(PellucidError):
    """A model cannot be found, loaded or placed."""


class SiteError(PellucidError):
    """A model has no such place to read or replace activations."""


class LedgerError(PellucidError):
    """The directory where a sweep keeps its finished cells cannot be used."""


class SweepError(PellucidError):
    """A sweep cannot go on: its set-up fails, or its workers keep dying."""
