"""Metrics of a language model and of the text it writes, one implementation for every framework.

>>> distinct_n(["to be or not to be".split()], 2), repetition(["to be or not to be".split()], 2)
(0.8, 0.2)
"""

import math
import sys
from collections.abc import Hashable, Iterable, Sequence
from typing import Any


def bits_per_character(mean_loss: float, *, num_tokens: int, num_characters: int) -> float:
    """Mean loss in nats a token -> bits a character: what compares across tokenizers.

    `num_tokens` targets had this mean loss, and stand for `num_characters` characters.

    Raises:
        ValueError: there are no characters.
    """
    if num_characters < 1:
        raise ValueError(f"num_characters {num_characters} must be at least 1; evaluate more text")
    return mean_loss * num_tokens / num_characters / math.log(2)


def count_words(text: str) -> int:
    """The words of a text as WikiText counts them: between white space, and one <eos> a line.

    >>> count_words("to be ,\\n\\nor not")  # 5 and 3 ends of lines, the last one unwritten
    8
    """
    lines = text.count("\n") + bool(text and not text.endswith("\n"))
    return len(text.split()) + lines


def perplexity(nats: float) -> float | None:
    """Nats a token, or a word, as a perplexity; None for one that no float holds."""
    return math.exp(nats) if nats < math.log(sys.float_info.max) else None


def perplexities(
    mean_loss: float, *, num_tokens: int, num_words: int, num_bytes: int
) -> dict[str, float | None]:
    """Mean loss in nats a token -> token_perplexity, word_perplexity, bits_per_byte.

    The nats of all `num_tokens` targets are shared among the tokens, the words and the bytes that
    they stand for; only the last two compare across tokenizers. None is as in `perplexity`.
    """
    nats = mean_loss * num_tokens
    return {
        "token_perplexity": perplexity(mean_loss),
        "word_perplexity": perplexity(nats / num_words),
        "bits_per_byte": nats / num_bytes / math.log(2),
    }


def distinct_n(texts: Iterable[Sequence[Hashable]], n: int) -> float | None:
    """Distinct n-grams of all texts over their number, in (0, 1] (Li et al. 2016, "distinct-n").

    Each text is a sequence of words or tokens (of characters, if it is a str). None where no text
    has n of them.
    """
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(texts: Iterable[Sequence[Hashable]], n: int) -> float | None:
    """The fraction of n-grams that stood in the same text before, in [0, 1).

    "seq-rep-n" of Welleck et al. 2020, with the texts' n-grams pooled. None where no text has n.
    """
    grams = [_ngrams(text, n) for text in texts]
    total = sum(map(len, grams))
    return 1 - sum(len(set(own)) for own in grams) / total if total else None


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU in [0, 100] of texts against one reference each, as sacrebleu has it (Post 2018).

    Its defaults: 4-grams, the 13a tokenisation, case kept, exponential smoothing.

    Raises:
        ValueError: sacrebleu is not installed, there are no texts, or not one reference each.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            f"bleu got {len(hypotheses)} texts and {len(references)} references; expected one "
            f"reference each, and at least one"
        )
    return _import_sacrebleu().corpus_bleu(list(hypotheses), [list(references)]).score


def _ngrams(text: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    if n < 1:
        raise ValueError(f"n {n} must be at least 1")
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]


def _import_sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise ValueError(
            "BLEU needs sacrebleu; pip install 'jaxmodels[text]' installs it"
        ) from error
    return sacrebleu
