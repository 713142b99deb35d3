"""Code that is loaded by name, and only when a setting asks for it."""

import importlib
import os
import sys

from cli import BadInput


def import_function(name, flag):
    """The function of a name MODULE:FUNCTION: the only place that runs code given by name.

    The module may lie in the working directory or on the Python path. Raises BadInput.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise BadInput(
            f"{flag}: {name!r} is not known: --help lists the names, or give MODULE:FUNCTION for a "
            "function of your own"
        )
    sys.path.insert(0, os.getcwd())
    try:
        value = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"{flag}: {name}: {error}: put {module}.py with that function into this folder"
        ) from error
    if not callable(value):
        raise BadInput(f"{flag}: {name} is not a function")
    return value


def load_extra(name):
    """The module extras/NAME.py. Only some flags need it: the core runs without that folder."""
    try:
        return importlib.import_module(f"extras.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("extras", f"extras.{name}"):
            raise
        raise BadInput(f"this needs extras/{name}.py, which is missing") from error
