"""A tiny pretrained BERT in a folder, and how train.py fine-tunes it on reviews."""

import dataclasses
from pathlib import Path
from typing import Any

import tokenizers
import torch

import torchref
from jaxmodels.shared.configs import BERTConfig
from jaxmodels.shared.text.byte_pairs import train_byte_level
from parity_tests.tiny_runs import call

VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "plot", "cast", "score", "end"),
    *("night", "king", "sea", "dull", "weak", "bad", "grim", "fine", "bright", "good", "warm"),
    *("not", "##ly", "<", "br", "/", ">", "!"),
)
ID = {word: row for row, word in enumerate(VOCABULARY)}
# Room for words to differ in length: the reviews have 1 to 8.
FLAGS = (
    *("imdb-bert", "--data.split", "7:1:2", "--data.max-length", 9, "--batch-size", 12),
    *("--training.evaluation-batch-size", 10, "--optimizer.learning-rate", 0.003, "--epochs", 2),
)
MODEL = BERTConfig(
    head="sequence-classification",
    vocabulary_size=310,
    context_length=13,
    hidden_dim=12,
    num_layers=2,
    num_heads=3,
    mlp_dim=14,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
    classifier_dropout_rate=0.0,
)


def word_pieces(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


def byte_pairs(folder: Path) -> Path:
    """RoBERTa's: padding is 1, and <s> and </s> go around a text."""
    special_tokens = ("<s>", "<pad>", "</s>", "<unk>")
    texts = [" ".join(VOCABULARY[5:])] * 3
    library = train_byte_level(texts, 300, special_tokens=special_tokens)
    library.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    library.enable_truncation(5)  # a limit of the file's own is none of ours
    folder.mkdir(exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    return folder


def checkpoint(folder: Path, *, family: str = "bert", seed: int = 7, **changes: Any) -> Path:
    """A tiny pretrained model's folder: weights, config and tokenizer."""
    own = {
        "bert": {},
        "roberta": {"padding_id": 1, "context_length": 15},
        "distilbert": {"type_vocabulary_size": 0},
    }[family]
    config = dataclasses.replace(MODEL, family=family, **(own | changes))  # type: ignore[arg-type]
    model = torchref.create(config, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 8  # fresh, every model's loss is log 2
    torchref.save_pretrained(model, config, folder)
    return (byte_pairs if family == "roberta" else word_pieces)(folder)


def train(source: Path, out: Path, *flags: object) -> str:
    code, output, errors = call("train", *FLAGS, "--source", source, "--out", out, *flags)
    assert code == 0, errors
    return output
