"""Converts a model's folder and proves it: python scripts/convert.py SRC DST --to hub

SRC is a folder or the Hub's id of a BERT, RoBERTa, DistilBERT, GPT-2 or ResNet, in any format that
transformers has written: torch's or Flax's safetensors, pytorch_model.bin, flax_model.msgpack,
sharded or not. `--to hub` writes model.safetensors, which transformers 5 loads, `--to flax` a
flax_model.msgpack for its older Flax classes. Tokenizer and other settings are copied. The proof
compares the logits of what was written, in float64, with transformers' torch model and ours.

`convert.py SRC --check` writes nothing: it climbs the parity ladder with the checkpoint's own
weights, our Flax model against our torch model and against transformers' own.
"""

import argparse
from pathlib import Path

from rich.console import Console

from jaxmodels.shared.command_line import run_script
from jaxmodels.shared.hub.download import find_folder
from parity_tests.conversion import check, convert, prove
from parity_tests.ladder import OBSERVERS


def main() -> int:
    description, _, rest = (__doc__ or "").partition("\n\n")[2].partition("\n\n")
    parser = argparse.ArgumentParser(description=description, epilog=rest)
    parser.add_argument("source", metavar="SRC", help="a folder, or the Hub's id of a model")
    parser.add_argument("destination", metavar="DST", type=Path, nargs="?", help="a new folder")
    parser.add_argument("--to", choices=("hub", "flax"), help="the layout to write [hub]")
    parser.add_argument("--check", action="store_true", help="climb the ladder; write nothing")
    parser.add_argument(
        "--rungs", default="forward,gradient,step", help="of --check [forward,gradient,step]"
    )
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    source = find_folder(arguments.source)
    if arguments.check:
        if arguments.destination or arguments.to:
            raise ValueError("--check writes nothing; give it SRC alone, without DST and --to")
        rungs = arguments.rungs.split(",")
        unknown = sorted(set(rungs) - OBSERVERS.keys())
        if unknown:
            raise ValueError(
                f"--rungs {','.join(unknown)}: unknown; expected some of {','.join(OBSERVERS)}"
            )
        return 0 if check(source, rungs, console) else 1
    if arguments.destination is None:
        raise ValueError("DST is missing; give the folder to write, or --check")
    layout = arguments.to or "hub"
    convert(source, arguments.destination, layout)
    console.print(f"wrote {arguments.destination} ({layout})")
    return 0 if prove(source, arguments.destination, layout, console) else 1


if __name__ == "__main__":
    run_script(main)
