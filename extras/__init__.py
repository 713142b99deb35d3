"""Tools around the core: they import it, and it never imports them.

A file is a command where its docstring shows `python -m extras.NAME`: run it so in the folder of
the repository. The other files do the work of these commands, and of those beside this folder.
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
