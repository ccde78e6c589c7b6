"""`generate` writes the tokens that transformers' own writes, in either framework."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodels
import torchref
from jaxmodels import generate as flax_generate
from jaxmodels.models.attention import KeysValues
from jaxmodels.shared.configs import GPT2Config
from jaxmodels.shared.tasks import TASKS
from jaxmodels.shared.text.generation import make_decoder
from jaxmodels.shared.text.prompts import power_of_two
from jaxmodels.state import cast, write_leaves
from parity_tests.cases import task_pair
from parity_tests.hub_pairs import load_hub_model
from parity_tests.own_pairs import make_pair
from parity_tests.pairs import Recipe, hot_leaves, precision
from parity_tests.text_rung import MAKERS
from torchref import generate as torch_generate

CONFIG = GPT2Config(
    vocabulary_size=47,
    context_length=64,
    hidden_dim=24,
    num_layers=2,
    num_heads=3,
    mlp_dim=48,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)
EOS, PADDING, NEW = (8, 28), 3, 21
LENGTHS = (7, 4, 9)
FRAMEWORKS = pytest.mark.parametrize("framework", ["flax", "torch"])
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy-penalty": {"repetition_penalty": 1.3},
    **{
        f"beams-{beams}-{penalty}": {"num_beams": beams, "length_penalty": penalty}
        for beams in (2, 4)
        for penalty in (0.6, 1.0, 2.0)
    },
    "beams-penalty": {"num_beams": 4, "repetition_penalty": 1.3},
}


def fresh_model(seed: int) -> Any:
    """Ours with weights at which differences show, in float32."""
    model = jaxmodels.create(CONFIG)
    leaves = hot_leaves(make_pair("gpt2", CONFIG, Recipe()), seed)
    # Of its natural size the tied embedding makes one token all but certain.
    leaves["token_embedding.embedding"] *= 0.3
    write_leaves(model, {name: value.astype(np.float32) for name, value in leaves.items()})
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: Any) -> dict[str, Any]:
    """The same weights in all three libraries, in float64."""
    folder: Path = tmp_path_factory.mktemp("gpt2")
    model = fresh_model(1)
    jaxmodels.save_pretrained(model, CONFIG, folder)
    with jax.enable_x64(True):
        flax = cast(jaxmodels.from_pretrained(folder), jnp.float64)
    torch_model = torchref.from_pretrained(folder).double()
    return {"flax": flax, "torch": torch_model, "hub": load_hub_model(folder).double()}


def prompts(rows: int, seed: int = 0, side: str = "left") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    length = max(LENGTHS[:rows])
    ids, mask = np.full((rows, length), PADDING), np.zeros((rows, length), int)
    for row, size in enumerate(LENGTHS[:rows]):
        place = slice(length - size, None) if side == "left" else slice(size)
        ids[row, place], mask[row, place] = rng.integers(0, CONFIG.vocabulary_size, size), 1
    return ids, mask


def written(framework: str, models: dict[str, Any], *prompt: Any, **options: Any) -> np.ndarray:
    options = {"max_new_tokens": NEW, "pad_token_id": PADDING, **options}
    library = flax_generate if framework == "flax" else torch_generate
    with jax.enable_x64(True):
        return np.asarray(library.generate(models[framework], *prompt, **options))


def hub_written(models: dict[str, Any], ids: Any, mask: Any, **options: Any) -> np.ndarray:
    tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    options = {"max_new_tokens": NEW, "pad_token_id": PADDING, **options}
    return models["hub"].generate(**tensors, do_sample=False, **options).numpy()


@FRAMEWORKS
@pytest.mark.parametrize(
    ("way", "eos"), [*((way, EOS) for way in WAYS), ("greedy", ()), ("beams-4-1.0", ())]
)
def test_tokens_are_transformers_own(way: str, eos: Any, framework: str, models: Any) -> None:
    stopped = 0
    for rows in (1, 3):
        for seed in range(4):
            options = WAYS[way] | ({"eos_token_id": list(eos)} if eos else {})
            ids, mask = prompts(rows, seed)
            expected = hub_written(models, ids, mask, **options)
            found = written(framework, models, ids, mask, **options)
            assert np.array_equal(found, expected)
            stopped += np.isin(expected[:, ids.shape[1] :], eos).any(axis=1).sum()
    assert not eos or stopped > 2


def test_float32_tokens_are_transformers_own(models: Any, tmp_path: Path) -> None:
    model = fresh_model(2)
    jaxmodels.save_pretrained(model, CONFIG, tmp_path)
    ids, mask = prompts(3)
    for way in ("greedy", "beams-4-1.0"):
        expected = hub_written({"hub": load_hub_model(tmp_path)}, ids, mask, **WAYS[way])
        options = {"max_new_tokens": NEW, "pad_token_id": PADDING, **WAYS[way]}
        assert np.array_equal(flax_generate.generate(model, ids, mask, **options), expected)


@pytest.mark.parametrize("way", ["greedy", "beams-2-1.0"])
@pytest.mark.parametrize("slip", ["place", "positions"])
def test_a_slip_writes_other_tokens(slip: str, way: str, models: Any, monkeypatch: Any) -> None:
    """The negative control: the cache written one place off, or positions that count padding."""
    call = type(models["torch"]).forward

    def slipped(self: Any, ids: Any, mask: Any, **options: Any) -> Any:
        if slip == "place" and ids.shape[1] == 1:
            options["start"] -= 1
        if slip == "positions":
            del options["position_ids"]
        return call(self, ids, mask, **options)

    ids, mask = prompts(3)
    expected = hub_written(models, ids, mask, **WAYS[way])
    assert np.array_equal(written("torch", models, ids, mask, **WAYS[way]), expected)
    monkeypatch.setattr(type(models["torch"]), "forward", slipped)
    assert not np.array_equal(written("torch", models, ids, mask, **WAYS[way]), expected)


@pytest.mark.parametrize("slip", ["place", "positions"])
def test_a_slip_of_flax_writes_other_tokens(slip: str, models: Any, monkeypatch: Any) -> None:
    call = type(models["flax"]).__call__

    def slipped(self: Any, ids: Any, mask: Any, **options: Any) -> Any:
        if slip == "place" and ids.shape[1] == 1:
            options["start"] -= 1
        if slip == "positions":
            del options["position_ids"]
        return call(self, ids, mask, **options)

    ids, mask = prompts(3)
    expected = hub_written(models, ids, mask)
    jax.clear_caches()
    monkeypatch.setattr(type(models["flax"]), "__call__", slipped)
    assert not np.array_equal(written("flax", models, ids, mask), expected)
    jax.clear_caches()


@FRAMEWORKS
def test_logits_through_the_cache_are_those_of_the_whole_text(framework: str, models: Any) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, CONFIG.vocabulary_size, (3, 20))
    model, prefix, places = models[framework], 8, 24
    shape = (3, CONFIG.num_heads, places, CONFIG.hidden_dim // CONFIG.num_heads)
    with jax.enable_x64(True), torch.no_grad():
        flax = framework == "flax"
        asarray: Any = jnp.asarray if flax else torch.from_numpy
        cache = tuple(
            KeysValues(*(asarray(np.zeros(shape)) for _ in range(2)))
            for _ in range(CONFIG.num_layers)
        )
        whole = np.asarray(model(asarray(ids)).logits)
        output = model(asarray(ids[:, :prefix]), cache=cache)
        parts = [np.asarray(output.logits)]
        for place in range(prefix, ids.shape[1]):
            token = asarray(ids[:, place : place + 1])
            output = model(token, cache=output.cache, start=place)
            parts.append(np.asarray(output.logits))
    found = np.concatenate(parts, axis=1)
    assert np.abs(found - whole).max() <= 1e-12 * np.abs(whole).max()


@FRAMEWORKS
def test_padding_on_the_right_is_moved_to_the_left(framework: str, models: Any) -> None:
    left, right = (written(framework, models, *prompts(3, side=s)) for s in ("left", "right"))
    assert np.array_equal(left, right)


def _compiled(function: Any) -> int:
    """How many programs a jitted function has compiled."""
    return function._cache_size()


def test_other_lengths_prompts_seeds_and_models_compile_nothing_anew() -> None:
    model, again = fresh_model(1), fresh_model(2)
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_k": 9}
    options |= {"top_p": 0.9, "eos_token_id": 5}
    searched: dict[str, Any] = {"num_beams": 2, "eos_token_id": 5}
    for kind, function in ((options, flax_generate._write), (searched, flax_generate._search)):
        flax_generate.generate(model, np.ones((2, 5), int), max_new_tokens=9, **kind)
        size = _compiled(function)
        for other, length, new in ((model, 8, 16), (again, 7, 12)):
            changes = {"seed": length, "temperature": 0.7, "top_p": 0.8} if kind is options else {}
            ids = np.full((2, length), 4)
            flax_generate.generate(other, ids, max_new_tokens=new, **(kind | changes))
        assert _compiled(function) == size
        flax_generate.generate(model, np.ones((2, 9), int), max_new_tokens=9, **kind)
        assert _compiled(function) == size + 1  # another bucket


def test_a_stream_compiles_one_step_for_all_positions() -> None:
    model = fresh_model(1)
    list(flax_generate.stream(model, np.ones((1, 5), int), max_new_tokens=9))
    size = _compiled(flax_generate._continue)
    list(flax_generate.stream(model, np.ones((1, 8), int), max_new_tokens=16))
    assert _compiled(flax_generate._continue) == size


SAMPLED: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.9,
    "top_k": 12,
    "top_p": 0.9,
    "repetition_penalty": 1.2,
    "eos_token_id": EOS,
}


@FRAMEWORKS
@pytest.mark.parametrize("options", [{"eos_token_id": EOS}, SAMPLED], ids=["greedy", "sampled"])
def test_a_stream_is_what_generate_returns(options: Any, framework: str, models: Any) -> None:
    ids, mask = prompts(3)
    library = flax_generate if framework == "flax" else torch_generate
    options = {"max_new_tokens": NEW, "pad_token_id": PADDING, **options}
    with jax.enable_x64(True):
        tokens = list(library.stream(models[framework], ids, mask, **options))
    expected = written(framework, models, ids, mask, **options)
    assert np.array_equal(np.stack(tokens, axis=1), expected[:, ids.shape[1] :])


def test_both_frameworks_sample_the_same_text_from_the_same_noise(models: Any) -> None:
    ids, mask = prompts(3)
    for seed in range(4):
        key = jax.random.key(seed)

        def noise(count: int, shape: tuple[int, int], key: Any = key) -> Any:
            return torch.from_numpy(np.array(flax_generate.gumbel_noise(key, count, shape)))

        flax = written("flax", models, ids, mask, seed=seed, **SAMPLED)
        assert np.array_equal(written("torch", models, ids, mask, noise=noise, **SAMPLED), flax)


@FRAMEWORKS
def test_a_sampled_row_is_the_same_in_any_batch(framework: str, models: Any) -> None:
    ids = np.random.default_rng(0).integers(0, CONFIG.vocabulary_size, (3, 6))
    texts = [written(framework, models, ids[:n], **(SAMPLED | {"eos_token_id": 5})) for n in (1, 3)]
    assert np.array_equal(texts[0][0], texts[1][0][: texts[0].shape[1]])
    other = written(framework, models, ids[:1], **(SAMPLED | {"seed": 1}))
    assert not np.array_equal(other, texts[0])


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_k": 6}, {"top_p": 0.7}, SAMPLED])
def test_kept_tokens_and_their_shares_are_transformers_own(options: Any, models: Any) -> None:
    """One prompt in many rows: the shares of the first new token, against its processors."""
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as hub

    rows = 4000
    ids = np.repeat(np.random.default_rng(1).integers(0, CONFIG.vocabulary_size, (1, 6)), rows, 0)
    made = {
        "repetition_penalty": hub.RepetitionPenaltyLogitsProcessor,
        "temperature": hub.TemperatureLogitsWarper,
        "top_k": hub.TopKLogitsWarper,
        "top_p": hub.TopPLogitsWarper,
    }
    kinds = [kind(options[name]) for name, kind in made.items() if name in options]
    with torch.no_grad():
        hub_model: Any = models["hub"]
        logits = hub_model(torch.from_numpy(ids[:1])).logits[:, -1].float()
    shares = LogitsProcessorList(kinds)(torch.from_numpy(ids[:1]), logits).softmax(-1)[0].numpy()  # type: ignore[arg-type]
    options = {"do_sample": True, **options, "max_new_tokens": 1}
    drawn = written("flax", models, ids, **options)[:, -1]
    found = np.bincount(drawn, minlength=CONFIG.vocabulary_size) / rows
    assert not found[shares == 0].any()
    assert np.all(np.abs(found - shares) <= 5 * (shares * (1 - shares) / rows) ** 0.5)


def test_bfloat16_writes_text() -> None:
    ids, mask = prompts(3)
    model = fresh_model(1)
    wide = flax_generate.generate(model, ids, mask, max_new_tokens=NEW)
    for narrow in (cast(model, jnp.bfloat16), jaxmodels.create(CONFIG, dtype=jnp.bfloat16)):
        for options in (dict[str, Any](), {"num_beams": 2}):
            text = flax_generate.generate(narrow, ids, mask, max_new_tokens=NEW, **options)  # type: ignore[arg-type]
            assert text.shape == wide.shape


def test_the_context_can_be_filled(models: Any) -> None:
    ids = np.random.default_rng(0).integers(0, CONFIG.vocabulary_size, (2, 33))
    new = CONFIG.context_length - 33
    mask = np.ones_like(ids)
    expected = hub_written(models, ids, mask, max_new_tokens=new)
    assert np.array_equal(written("flax", models, ids, mask, max_new_tokens=new), expected)


def test_powers_of_two() -> None:
    assert [power_of_two(number) for number in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "context": ({"max_new_tokens": 60}, "max_new_tokens 60 after a prompt of 9 exceed"),
    "none": ({"max_new_tokens": 0}, "max_new_tokens 0 must be at least 1"),
    "temperature": ({"do_sample": True, "temperature": 0.0}, "temperature 0.0 must be positive"),
    "idle": ({"temperature": 0.5}, "temperature 0.5 has no effect without sampling"),
    "top_k": ({"do_sample": True, "top_k": 0}, "top_k 0 must be at least 1"),
    "top_p": ({"do_sample": True, "top_p": 1.5}, r"top_p 1.5 must be in \(0, 1\]"),
    "beams": ({"num_beams": 0}, "num_beams 0 must be at least 1"),
    "both": ({"num_beams": 2, "do_sample": True}, "do_sample=True with num_beams 2 is not"),
    "eos": ({"eos_token_id": 47}, "eos_token_id: token 47 is out of the vocabulary"),
    "padding": ({"pad_token_id": -1}, "pad_token_id: token -1 is out of the vocabulary"),
    "seed": ({"seed": -1}, "seed -1 must be in"),
}


@FRAMEWORKS
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_option_is_named(mistake: str, framework: str, models: Any) -> None:
    options, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        written(framework, models, *prompts(3), **options)
    assert "\n" not in str(caught.value)


@FRAMEWORKS
def test_a_wrong_prompt_is_named(framework: str, models: Any) -> None:
    ids, mask = prompts(3)
    empty, middle, outside = mask.copy(), mask.copy(), ids.copy()
    empty[1], middle[2, 4], outside[0, -1] = 0, 0, 47
    wrong = {
        "input_ids row 1 is empty": (ids, empty),
        "attention_mask row 2 is neither left nor right padding": (ids, middle),
        "input_ids: token 47 is out of the vocabulary": (outside, mask),
        "attention_mask of shape": (ids, mask[:, 1:]),
        "input_ids of shape": (ids[0], None),
        "input_ids of shape \\(3, 0\\)": (ids[:, :0], None),
    }
    for message, prompt in wrong.items():
        with pytest.raises(ValueError, match=message):
            written(framework, models, *prompt)


@FRAMEWORKS
def test_a_model_that_writes_no_text_is_refused(framework: str) -> None:
    library = jaxmodels if framework == "flax" else torchref
    headless = library.create(GPT2Config(head="none"))
    with pytest.raises(ValueError, match="model: GPT2Config with head 'none' writes no text"):
        written(framework, {framework: headless}, *prompts(1))


@FRAMEWORKS
def test_a_runs_decoder_writes_what_rereading_does_beyond_the_context(framework: str) -> None:
    """The decoder of scripts/generate.py keeps a cache, which may change no token."""
    context = 12
    model = replace(CONFIG, context_length=context)
    task = TASKS["shakespeare-transformer"]
    task = replace(task, model=model, data=replace(task.data, sequence_length=context))
    pair = task_pair(task)
    with precision("float64"):
        predict = MAKERS[framework](task, pair, hot_leaves(pair, 0), "float64")
        step, select, state = make_decoder(task, predict)
        tokens = np.random.default_rng(0).integers(0, CONFIG.vocabulary_size, (2, context + 3))
        for length in range(1, tokens.shape[1] + 1):
            logits, state = step(state, tokens[:, length - 1].astype(np.int32))
            state, tokens = select(state, np.array([1, 0])), tokens[::-1]
            text = tokens[::-1, max(length - context, 0) : length].astype(np.int32)
            whole, _ = predict({"tokens": text}, None)
            assert np.abs(logits - whole[:, -1]).max() <= 1e-12 * np.abs(whole).max()
