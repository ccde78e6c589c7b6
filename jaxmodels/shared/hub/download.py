"""A model's folder, from the Hugging Face Hub if it is not on this machine."""

import importlib.util
from pathlib import Path

# Config, weights in any format that is read, and tokenizer; no code.
_PATTERNS = ["*.json", "*.safetensors", "pytorch_model*.bin", "*.msgpack", "*.txt", "*.model"]


def find_folder(path: str | Path) -> Path:
    """The folder itself, or that of the Hub's model with this id, downloaded or from the cache.

    Raises:
        ValueError: there is neither; the message names what works offline.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    name = str(path)
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ValueError(
            f"{name} is not a folder; expected one with config.json and weights, or the Hub's id "
            "of a model, such as bert-base-uncased"
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError(
            f"{name} is not a folder, and the Hub's models need huggingface_hub, which is not "
            "installed; run: pip install 'jaxmodels[hub]'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except Exception as error:  # the network, the id and the disk fail in ways of their own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{name} is not a folder here, and as the Hub's model it could not be fetched "
            f"({type(error).__name__}: {reason}); give the path of a folder with config.json and "
            "weights"
        ) from None
