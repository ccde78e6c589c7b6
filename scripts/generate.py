"""Writes text with a finished run: python scripts/generate.py DIR --prompt "ROMEO:"

Tokens are sampled and printed as they are chosen; --temperature 0 takes the most probable. With
--beams N the text is searched for instead, its probabilities at the given temperature. Several
--prompt are written side by side, and printed one after another.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from jaxmodels.shared.command_line import load_engine, run_script
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.decoding import Sampling, State, Step, beam_search, collect, stream
from jaxmodels.shared.generation import make_decoder
from jaxmodels.shared.tokenizers import Tokenizer, decode_stream, load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    parser.add_argument("--engine", choices=("flax", "torch"), help="default: the run's own")
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
    parser.add_argument("--stop", metavar="TEXT", help="end where this single token is written")
    arguments = parser.parse_args()
    sampling = _check(arguments)

    run, engine = load_engine(arguments.folder, arguments.engine)
    if not isinstance(run.task.data, LanguageDataConfig):
        raise ValueError(
            f"{arguments.folder} holds a run of {run.task.name}, which writes no text; "
            "expected a run on text"
        )
    tokenizer = load_tokenizer(arguments.folder)
    step, select, state = make_decoder(run.task, engine.predict)
    prompts = arguments.prompt or ["\n"]
    flag = "--prompt" if arguments.prompt else "the default --prompt"
    encoded = [_encode(tokenizer, flag, text) for text in prompts]
    stop_tokens = _stop_tokens(tokenizer, arguments.stop)
    if arguments.beams > 1:
        found = beam_search(
            _tempered(step, arguments.temperature),
            select,
            state,
            encoded,
            vocabulary_size=tokenizer.vocabulary_size,
            beams=arguments.beams,
            max_new_tokens=arguments.max_new_tokens,
            length_penalty=arguments.length_penalty,
            stop_tokens=stop_tokens,
        )
        _print_texts(tokenizer, prompts, [list(hypothesis.tokens) for hypothesis in found])
        return
    tokens = stream(
        step,
        state,
        encoded,
        vocabulary_size=tokenizer.vocabulary_size,
        max_new_tokens=arguments.max_new_tokens,
        sampling=sampling,
        stop_tokens=stop_tokens,
    )
    if len(prompts) > 1:
        _print_texts(tokenizer, prompts, collect(tokens, len(prompts)))
        return
    sys.stdout.write(prompts[0])
    for piece in decode_stream(tokenizer, (token.token for token in tokens)):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _check(arguments: argparse.Namespace) -> Sampling:
    """Refuses what does not fit together, before a model is loaded."""
    for name in ("beams", "max_new_tokens"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{_flag(name)} {getattr(arguments, name)} must be at least 1")
    if not 0 <= arguments.length_penalty < np.inf:
        raise ValueError(
            f"--length-penalty {arguments.length_penalty} must be finite and not negative"
        )
    if arguments.beams > 1 and (arguments.top_k or arguments.top_p < 1):
        raise ValueError("--top-k and --top-p sample, --beams searches; leave one of them out")
    if arguments.beams > 1 and arguments.temperature == 0:
        raise ValueError(
            "--temperature 0 takes the likeliest token each time, --beams searches; leave one out"
        )
    try:
        return Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed)
    except ValueError as error:  # "top_p 2.0 must be ..."
        name, _, rest = str(error).partition(" ")
        raise ValueError(f"{_flag(name)} {rest}") from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _tempered(step: Step, temperature: float) -> Step:
    def tempered(state: State, tokens: np.ndarray) -> tuple[np.ndarray, State]:
        logits, state = step(state, tokens)
        return logits / temperature, state

    return tempered


def _encode(tokenizer: Tokenizer, flag: str, text: str) -> np.ndarray:
    if not text:
        raise ValueError(f"{flag} is empty; expected some text; a line end will do")
    try:
        return tokenizer.encode(text)
    except ValueError as error:
        raise ValueError(f"{flag} {text[:40]!r}: {error}") from None


def _stop_tokens(tokenizer: Tokenizer, text: str | None) -> list[int]:
    if text is None:
        return []
    tokens = _encode(tokenizer, "--stop", text)
    if len(tokens) != 1:
        raise ValueError(
            f"--stop {text!r} is {len(tokens)} tokens; expected a single one, such as "
            f"{tokenizer.decode(tokens[:1].tolist())!r}"
        )
    return tokens.tolist()


def _print_texts(tokenizer: Tokenizer, prompts: list[str], texts: list[list[int]]) -> None:
    for number, (prompt, tokens) in enumerate(zip(prompts, texts, strict=True), start=1):
        if len(prompts) > 1:
            print(f"{'' if number == 1 else chr(10)}----- {number} of {len(prompts)}")
        print(prompt + tokenizer.decode(tokens))


if __name__ == "__main__":
    run_script(main)
