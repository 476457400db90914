"""The one exception that speaks to the user."""


class InputError(ValueError):
    """Wrong input: one line that names the config key or file, what is wrong and what would be right.

    Stages print the message alone, without a traceback, and exit with status 2.
    """
