"""Times greedy text of GPT-2 beside transformers' own: python scripts/benchmark_generation.py

Each round times every contender once on the same weights and prompt, so that a machine whose speed
drifts slows all alike; the medians over the rounds are printed.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers

import jaxmodels
from jaxmodels.generate import generate
from jaxmodels.shared.command_line import run_script
from jaxmodels.shared.configs import GPT2Config

CONFIG = GPT2Config(
    vocabulary_size=50257,
    context_length=257,  # for one token after the longest prompt
    hidden_dim=384,
    num_layers=6,
    num_heads=6,
    mlp_dim=1536,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)
# Batch size, prompt and new tokens; a prefill is a prompt and its next token.
SETTINGS = {"batch 1": (1, 32, 128), "batch 8": (8, 32, 128), "prefill": (1, 256, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--repeat", type=int, default=5, help="rounds [default: 5]")
    parser.add_argument("--threads", type=int, default=2, help="torch's [default: 2]")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        raise ValueError(f"--repeat {arguments.repeat} must be at least 1")
    torch.set_num_threads(arguments.threads)

    transformers.utils.logging.disable_progress_bar()
    flax = jaxmodels.create(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        jaxmodels.save_pretrained(flax, CONFIG, folder)
        hub: dict[str, Any] = {
            name: transformers.GPT2LMHeadModel.from_pretrained(
                folder, attn_implementation=name
            ).eval()
            for name in ("eager", "sdpa")
        }
    for name, (batch, length, new) in SETTINGS.items():
        ids = np.random.default_rng(0).integers(0, CONFIG.vocabulary_size, (batch, length))
        tensors = torch.from_numpy(ids)
        shared = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        shared["attention_mask"] = torch.ones_like(tensors)
        contenders = {
            "ours": partial(generate, flax, ids, max_new_tokens=new),
            "transformers, eager": partial(hub["eager"].generate, tensors, **shared),
            "transformers, sdpa": partial(hub["sdpa"].generate, tensors, **shared),
        }
        seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
        for number in range(1 + arguments.repeat):
            for contender, write in contenders.items():
                started = time.perf_counter()
                write()
                if number > 0:  # the first warms up
                    seconds[contender].append(time.perf_counter() - started)
        ours = statistics.median(seconds["ours"])
        for contender, values in seconds.items():
            median = statistics.median(values)
            rate, ratio = f"{batch * new / median:.0f}", f"{median / ours:.2f}x"
            print(
                f"{name:8} {contender:20} {median:8.3f} s {rate:>6} tokens/s {ratio:>7}", flush=True
            )


if __name__ == "__main__":
    run_script(main)
