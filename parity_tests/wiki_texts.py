"""Tiny texts in WikiText's layouts, and a GPT-2 small enough to train on them."""

from pathlib import Path

from jaxmodels.shared.configs import GPT2Config
from jaxmodels.shared.text.tokenizers import ByteBPETokenizer
from parity_tests.tiny_texts import write_prose

MODEL = GPT2Config(
    vocabulary_size=262,
    context_length=11,
    hidden_dim=12,
    num_layers=2,
    num_heads=3,
    mlp_dim=14,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)


def layout(folder: Path, kind: str, splits: tuple[str, ...] = ("train", "valid", "test")) -> Path:
    folder.mkdir(parents=True)
    for seed, split in enumerate(splits):
        text = write_prose(60, seed)
        if kind == "parquet":
            import pyarrow
            import pyarrow.parquet

            split = {"valid": "validation"}.get(split, split)
            below = folder / "wikitext-2-v1"
            below.mkdir(exist_ok=True)
            rows = [line if line != "\n" else "" for line in ("\n" + text).splitlines(True)]
            table = pyarrow.table({"text": rows})
            pyarrow.parquet.write_table(table, below / f"{split}-00000-of-00001.parquet")
        else:
            (folder / kind.format(split)).write_text("\n" + text)
    return folder


def gpt2_tokenizer(folder: Path) -> ByteBPETokenizer:
    """vocab.json and merges.txt, as GPT-2 was published."""
    tokenizer = ByteBPETokenizer.train(write_prose(80, 0), 261)
    folder.mkdir(exist_ok=True)
    tokenizer._library.model.save(str(folder))
    return tokenizer
