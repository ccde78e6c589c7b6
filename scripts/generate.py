"""Writes text with a finished run or a GPT-2: python scripts/generate.py DIR --prompt "ROMEO:"

DIR is a run's folder, or one of the Hub's layout that holds a GPT-2 and its tokenizer. Tokens are
sampled and printed as they are chosen; --temperature 0 takes the most probable. With --beams N the
text is searched for instead, its probabilities at the given temperature. Several --prompt are
written side by side, and printed one after another.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from jaxmodels.shared.command_line import run_script
from jaxmodels.shared.text.decoding import Sampling
from jaxmodels.shared.text.tokenizers import Tokenizer, until_stop
from jaxmodels.shared.text.writers import gather, open_writer


def main() -> None:
    arguments = _parser().parse_args()
    sampling = _check(arguments)
    writer = open_writer(arguments.folder, arguments.engine)
    tokenizer, limit = writer.tokenizer, arguments.max_new_tokens
    prompts = arguments.prompt or ["\n"]
    flag = "--prompt" if arguments.prompt else "the default --prompt"
    encoded = [_encode(tokenizer, flag, text) for text in prompts]
    if arguments.stop is not None:
        _encode(tokenizer, "--stop", arguments.stop)
    if arguments.beams > 1:
        found = writer.search(
            encoded,
            beams=arguments.beams,
            max_new_tokens=limit,
            temperature=arguments.temperature,
            length_penalty=arguments.length_penalty,
            stop_tokens=_stop_tokens(tokenizer, arguments.stop),
        )
        _print_texts(prompts, [tokenizer.decode(tokens) for tokens in found])
        return
    tokens = writer.stream(encoded, max_new_tokens=limit, sampling=sampling)
    if arguments.stream is False or len(prompts) > 1:
        texts = gather(tokenizer, tokens, count=len(prompts), stop=arguments.stop)
        _print_texts(prompts, texts)
        return
    sys.stdout.write(prompts[0])
    for piece in until_stop(tokenizer, (token for _, token in tokens), arguments.stop):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("folder", type=Path, metavar="DIR", help="of a run, or of a GPT-2")
    parser.add_argument(
        "--engine", choices=("flax", "torch"), help="default: the run's own; flax for a GPT-2"
    )
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="may be repeated [default: a line end]"
    )
    parser.add_argument("--max-new-tokens", type=int, default=300, metavar="N", help="[300]")
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="divides the logits [1]"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="sample of the K likeliest [0: all]"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="of those that hold P [1: all]"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling [0]")
    parser.add_argument(
        "--beams", type=int, default=1, metavar="N", help="search with N texts [1: sample]"
    )
    parser.add_argument(
        "--length-penalty", type=float, default=0.6, metavar="X", help="of the search [0.6]"
    )
    parser.add_argument(
        "--stop", metavar="TEXT", help="end where this is written; with --beams a single token"
    )
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="print tokens as they are chosen [on for one prompt that is sampled]",
    )
    return parser


def _check(arguments: argparse.Namespace) -> Sampling:
    """Refuses what does not fit together, before a model is loaded."""
    for name in ("beams", "max_new_tokens"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{_flag(name)} {getattr(arguments, name)} must be at least 1")
    if not 0 <= arguments.length_penalty < np.inf:
        raise ValueError(
            f"--length-penalty {arguments.length_penalty} must be finite and not negative"
        )
    if arguments.stop == "":
        raise ValueError("--stop is empty; expected some text")
    if arguments.beams > 1 and (arguments.top_k or arguments.top_p < 1):
        raise ValueError("--top-k and --top-p sample, --beams searches; leave one of them out")
    if arguments.beams > 1 and arguments.temperature == 0:
        raise ValueError(
            "--temperature 0 takes the likeliest token each time, --beams searches; leave one out"
        )
    if arguments.stream and (arguments.beams > 1 or len(arguments.prompt or ()) > 1):
        raise ValueError("--stream shows one text as it grows; leave out --beams, or one --prompt")
    try:
        return Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed)
    except ValueError as error:  # "top_p 2.0 must be ..."
        name, _, rest = str(error).partition(" ")
        raise ValueError(f"{_flag(name)} {rest}") from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _encode(tokenizer: Tokenizer, flag: str, text: str) -> np.ndarray:
    if not text:
        raise ValueError(f"{flag} is empty; expected some text; a line end will do")
    try:
        return tokenizer.encode(text)
    except ValueError as error:
        raise ValueError(f"{flag} {text[:40]!r}: {error}") from None


def _stop_tokens(tokenizer: Tokenizer, text: str | None) -> list[int]:
    """The token that ends a search; a text that is sampled ends where its characters do."""
    if text is None:
        return []
    tokens = _encode(tokenizer, "--stop", text)
    if len(tokens) != 1:
        raise ValueError(
            f"--stop {text!r} is {len(tokens)} tokens; --beams expects a single one, such as "
            f"{tokenizer.decode(tokens[:1].tolist())!r}"
        )
    return tokens.tolist()


def _print_texts(prompts: list[str], texts: list[str]) -> None:
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), start=1):
        if len(prompts) > 1:
            print(f"{'' if number == 1 else chr(10)}----- {number} of {len(prompts)}")
        print(prompt + text)


if __name__ == "__main__":
    run_script(main)
