"""Models that are no folder on this machine: what the hub has, what extras/fetch.py makes."""

from pathlib import Path

from cli import BadInput

FETCHED = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "smollm2-135m"  # extras/fetch.py makes them
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # no pickles
SECOND_COPY = ["consolidated*", "original/*"]  # of the weights, in other libraries' names


def download(name, flag):
    """The folder of a model on the hub, downloaded once, without pickled weights.

    Raises BadInput, which begins with the flag that named the model.
    """
    folder = Path(name).name
    if folder in FETCHED:
        raise BadInput(
            f"{flag}: no such folder {name}: make it with python -m extras.fetch {folder} {name}"
        )
    if str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise BadInput(
            f"{flag}: no such folder {name}: give a Hugging Face folder or a hub name such as "
            "Qwen/Qwen3-0.6B"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=SECOND_COPY))
    except (OSError, ValueError) as error:  # what the hub's client raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(
            f"{flag}: {name} is not a folder, and the hub did not give it ({reason}): check the "
            "name or the network"
        ) from error
