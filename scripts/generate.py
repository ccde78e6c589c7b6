"""Writes text with a finished run or a GPT-2: python scripts/generate.py DIR --prompt "ROMEO:"

DIR is a run's folder, or one of the Hub's layout that holds a GPT-2 and its tokenizer. Tokens are
sampled and printed as they are chosen; --temperature 0 takes the most probable. With --beams N the
text is searched for instead, its probabilities at the given temperature. Several --prompt are
written side by side, and printed one after another.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.command_line import load_engine, missing_extra, run_script
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.decoding import Sampling, State, Step, beam_search, stream
from jaxmodels.shared.files import read_json
from jaxmodels.shared.generation import make_decoder
from jaxmodels.shared.tokenizers import Tokenizer, load_tokenizer, until_stop

Prompts = list[np.ndarray]


@dataclass(frozen=True)
class Writer:
    """What writes: `stream` yields (row, token) as they are chosen, `search` the best texts."""

    tokenizer: Tokenizer
    stream: Callable[[Prompts], Iterator[tuple[int, int]]]
    search: Callable[[Prompts], list[list[int]]]


def main() -> None:
    arguments = _parser().parse_args()
    sampling = _check(arguments)
    is_checkpoint = (
        not (arguments.folder / "run.json").exists() and (arguments.folder / "config.json").exists()
    )
    writer = (_checkpoint_writer if is_checkpoint else _run_writer)(arguments, sampling)
    tokenizer = writer.tokenizer
    prompts = arguments.prompt or ["\n"]
    flag = "--prompt" if arguments.prompt else "the default --prompt"
    encoded = [_encode(tokenizer, flag, text) for text in prompts]
    if arguments.stop is not None:
        _encode(tokenizer, "--stop", arguments.stop)
    if arguments.beams > 1:
        texts = [tokenizer.decode(tokens) for tokens in writer.search(encoded)]
        _print_texts(prompts, texts)
        return
    tokens = writer.stream(encoded)
    if arguments.stream is False or len(prompts) > 1:
        _print_texts(prompts, _gather(tokenizer, tokens, len(prompts), arguments.stop))
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


def _run_writer(arguments: argparse.Namespace, sampling: Sampling) -> Writer:
    """A run's model, through the decoders of its kind."""
    run, engine = load_engine(arguments.folder, arguments.engine)
    if not isinstance(run.task.data, LanguageDataConfig):
        raise ValueError(
            f"{arguments.folder} holds a run of {run.task.name}, which writes no text; "
            "expected a run on text"
        )
    tokenizer = load_tokenizer(arguments.folder)
    step, select, state = make_decoder(run.task, engine.predict)

    def write(prompts: Prompts) -> Iterator[tuple[int, int]]:
        tokens = stream(
            step,
            state,
            prompts,
            vocabulary_size=tokenizer.vocabulary_size,
            max_new_tokens=arguments.max_new_tokens,
            sampling=sampling,
        )
        return ((token.row, token.token) for token in tokens)

    def search(prompts: Prompts) -> list[list[int]]:
        found = beam_search(
            _tempered(step, arguments.temperature),
            select,
            state,
            prompts,
            vocabulary_size=tokenizer.vocabulary_size,
            beams=arguments.beams,
            max_new_tokens=arguments.max_new_tokens,
            length_penalty=arguments.length_penalty,
            stop_tokens=_stop_tokens(tokenizer, arguments.stop),
        )
        return [list(hypothesis.tokens) for hypothesis in found]

    return Writer(tokenizer, write, search)


def _checkpoint_writer(arguments: argparse.Namespace, sampling: Sampling) -> Writer:
    """A GPT-2 in a folder, through `jaxmodels.generate` or `torchref.generate`."""
    engine = arguments.engine or ("flax" if find_spec("jax") else "torch")
    try:
        if engine == "flax":
            from jaxmodels import generate as library
            from jaxmodels.pretrained import from_pretrained
        else:
            from torchref import generate as library
            from torchref.pretrained import from_pretrained
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra(engine, error)) from None
    folder = arguments.folder
    tokenizer = load_tokenizer(folder)
    model: Any = from_pretrained(folder, head="language-model")
    content: Any = read_json(folder / "config.json")
    end = content.get("eos_token_id")
    ends = end if isinstance(end, list) else [] if end is None else [end]
    limits: dict[str, Any] = {"max_new_tokens": arguments.max_new_tokens}

    def write(prompts: Prompts) -> Iterator[tuple[int, int]]:
        ids, mask = _padded(prompts)
        how: dict[str, Any] = {"eos_token_id": ends or None, "seed": sampling.seed}
        if sampling.temperature > 0:
            how |= {"do_sample": True, "temperature": sampling.temperature}
            how |= {"top_k": sampling.top_k or None, "top_p": sampling.top_p}
        open_rows = set(range(len(prompts)))
        for tokens in library.stream(model, ids, mask, **limits, **how):
            for row in sorted(open_rows):
                if tokens[row] in ends:
                    open_rows.remove(row)
                else:
                    yield row, int(tokens[row])

    def search(prompts: Prompts) -> list[list[int]]:
        if arguments.temperature != 1:
            raise ValueError("--temperature with --beams is for runs; leave one of them out")
        ids, mask = _padded(prompts)
        stop = _stop_tokens(tokenizer, arguments.stop)
        found = library.generate(
            model,
            ids,
            mask,
            **limits,
            num_beams=arguments.beams,
            length_penalty=arguments.length_penalty,
            eos_token_id=[*ends, *stop] or None,
        )
        texts = []
        for row in np.asarray(found)[:, ids.shape[1] :].tolist():
            last = next((i for i, token in enumerate(row) if token in [*ends, *stop]), len(row))
            kept = 1 if last < len(row) and row[last] in stop else 0
            texts.append(row[: last + kept])
        return texts

    return Writer(tokenizer, write, search)


def _padded(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """B prompts -> ids and mask, (B, T) int32 each, padded on the left."""
    longest = max(map(len, prompts))
    ids, mask = np.zeros((2, len(prompts), longest), np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _gather(
    tokenizer: Tokenizer, tokens: Iterator[tuple[int, int]], count: int, stop: str | None
) -> list[str]:
    """The texts of all rows, each cut behind `stop`; nothing is written once all have had it."""
    rows: list[list[int]] = [[] for _ in range(count)]
    running = set(range(count))
    for row, token in tokens:
        rows[row].append(token)
        if stop is not None and row in running and stop in tokenizer.decode(rows[row]):
            running.remove(row)
            if not running:
                break
    return ["".join(until_stop(tokenizer, row, stop)) for row in rows]


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
