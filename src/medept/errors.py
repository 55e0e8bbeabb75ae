"""The one exception that means: what was given cannot be used, and here is what to do."""


class InputError(ValueError):
    """Bad input from the user.

    The message names the file, row, column or argument at fault and says what to do about it.
    The command line prints it without a traceback and exits with code 2.
    """
