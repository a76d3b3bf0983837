"""The one thing that every module's errors have in common: who can mend them."""


class UserError(Exception):
    """Something that the user can mend.

    Its message is one line: what was given, what was expected, what to do. The command line prints that
    line and exits with code 2; every other exception is a defect and keeps its traceback. Subclasses live
    in the module that raises them.

    Examples:
        >>> try:
        ...     bypass(model, "ffn:9")
        ... except UserError as error:
        ...     print(error)
        ffn:9: bert here has 4 layers, numbered 0 to 3
    """
