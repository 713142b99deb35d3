"""Tools around the core: they import it, and it never imports them.

Run them with `python -m extras.NAME` in the folder of the repository.
"""


def split_arguments(argv):
    """(names, flags): the arguments without a flag, and the others for cli.parse_settings."""
    names, flags = [], []
    needs_value = False
    for argument in argv:
        if needs_value:
            flags.append(argument)
            needs_value = False
        elif argument.startswith("-"):
            flags.append(argument)
            needs_value = "=" not in argument and argument not in ("-h", "--help")
        else:
            names.append(argument)
    return names, flags
