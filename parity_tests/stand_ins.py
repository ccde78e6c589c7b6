"""What stands in for the homes of public data sets: a dead network, and sets written by tfds."""

import re
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest


def cut_network(monkeypatch: pytest.MonkeyPatch, cache: Path, *, offline: bool) -> None:
    """No name resolves, and nothing is in the Hub's cache; `offline` as HF_HUB_OFFLINE says it."""
    datasets = pytest.importorskip("datasets")
    import huggingface_hub

    def no_network(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)


def write_tfds(
    folder: Path,
    name: str,
    features: Callable[[Any], Mapping[str, Any]],
    splits: Mapping[str, Iterable[Mapping[str, Any]]],
) -> Path:
    """tfds's own layout in array_record files, by its own writer; found by its files alone.

    name: the builder's class, as "TinySigns"; features: (tfds.features) -> column -> type;
    splits: split -> its rows.
    """
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            columns = tfds.features.FeaturesDict(features(tfds.features))
            return tfds.core.DatasetInfo(builder=self, features=columns)

        def _split_generators(self, _):
            return {split: enumerate(rows) for split, rows in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError("the splits are given as rows")

    Builder.name = "_".join(re.findall("[A-Z][a-z]*", name)).lower()
    Builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder
