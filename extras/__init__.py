"""Tools around the core: they import it, and it never imports them. `python -m extras.NAME` in the repository's folder."""


def split_arguments(argv):
    """(names, flags): arguments that stand alone, and --flag value pairs, which `cli.parse_settings` reads."""
    names, flags, rest = [], [], iter(argv)
    for argument in rest:
        if argument.startswith("-"):
            flags += (
                [argument]
                if "=" in argument or argument in ("-h", "--help")
                else [argument, *(value for value in [next(rest, None)] if value)]
            )
        else:
            names.append(argument)
    return names, flags
