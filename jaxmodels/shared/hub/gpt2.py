"""GPT-2 on the Hub: its config and its tensors' names."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxmodels.shared.configs import GPT2Config
from jaxmodels.shared.hub import fields

HEADS = {"GPT2LMHeadModel": "language-model", "GPT2Model": "none"}
PREFIXES = ("transformer.",)
FIELDS = {
    "vocab_size": "vocabulary_size",
    "n_positions": "context_length",
    "n_embd": "hidden_dim",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "resid_pdrop": "dropout_rate",
    "attn_pdrop": "attention_dropout_rate",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "initializer_range": "embedding_deviation",
}
FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
}
MODULES = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "blocks.{}.norm1": "h.{}.ln_1",
    "blocks.{}.attention.query_key_value": "h.{}.attn.c_attn",
    "blocks.{}.attention.output": "h.{}.attn.c_proj",
    "blocks.{}.norm2": "h.{}.ln_2",
    "blocks.{}.linear1": "h.{}.mlp.c_fc",
    "blocks.{}.linear2": "h.{}.mlp.c_proj",
    "norm": "ln_f",
}
# Its linear layers are transformers' Conv1D, whose weight is (in, out).
TRANSPOSED = (r"\.c_(attn|proj|fc)\.weight$",)
TIED = {"lm_head.weight": "transformer.wte.weight"}
DROPPED = (r"\.attn\.(bias|masked_bias)$",)  # causal masks, which are no parameters

DEFAULT = GPT2Config(  # transformers' own, the paper's smallest
    vocabulary_size=50_257,
    context_length=1024,
    hidden_dim=768,
    num_layers=12,
    num_heads=12,
    mlp_dim=3072,
)


def from_hub_config(content: Mapping[str, Any]) -> GPT2Config:
    """The config that the content of a `config.json` describes.

    Raises:
        ValueError: a field has a value that we do not have, or is unknown.
    """
    own = {"n_inner", "n_ctx", "activation_function", "embd_pdrop", "pad_token_id"}
    summary = {name for name in content if name.startswith("summary_")}  # of another head
    fields.check_fields(content, frozenset({*FIELDS, *own, *summary}), FIXED)
    values = fields.read_fields(content, FIELDS, DEFAULT)
    config = replace(DEFAULT, mlp_dim=4 * values.get("hidden_dim", DEFAULT.hidden_dim), **values)
    if content.get("n_inner") is not None:
        config = replace(config, **fields.read_fields(content, {"n_inner": "mlp_dim"}, DEFAULT))
    if content.get("embd_pdrop", config.dropout_rate) != config.dropout_rate:
        raise ValueError(
            f"embd_pdrop is {content['embd_pdrop']!r} and resid_pdrop {config.dropout_rate}; "
            "expected one rate for both"
        )
    return replace(
        config,
        head=fields.head_of(content, HEADS),
        activation=fields.read_activation(content, "activation_function", DEFAULT.activation),
    )


def to_hub_config(config: GPT2Config) -> dict[str, Any]:
    """The content of the `config.json` that transformers reads."""
    architecture = next(name for name, head in HEADS.items() if head == config.head)
    return (
        {"model_type": "gpt2", "architectures": [architecture]}
        | {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
        | {
            "n_inner": config.mlp_dim,
            "embd_pdrop": config.dropout_rate,
            "activation_function": fields.activation_name(config.activation),
            # transformers' own would lie outside a small vocabulary.
            "bos_token_id": None,
            "eos_token_id": None,
        }
    )


def hub_modules(config: GPT2Config) -> dict[str, str]:
    """The Hub's name of each of our modules that has tensors, by our own dotted path."""
    prefix = PREFIXES[0] if config.head == "language-model" else ""
    return {ours: prefix + theirs for ours, theirs in MODULES.items()}
