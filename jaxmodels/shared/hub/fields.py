"""The fields of a Hub `config.json`, read strictly: what changes the function is never passed over.

>>> read_fields(content, {"hidden_size": "hidden_dim"}, BERTConfig())
{'hidden_dim': 384}
"""

from collections.abc import Mapping
from typing import Any

from jaxmodels.shared.configs import Activation

ACTIVATIONS: dict[str, Activation] = {  # the first of each is the one that is written
    "relu": "relu",
    "silu": "swish",
    "swish": "swish",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

# Fields of any architecture that say nothing about what it computes from its inputs: where it comes
# from, how it is trained, and what text generation does by default.
METADATA = frozenset(
    """
    _name_or_path name_or_path _num_labels _attn_implementation _attn_implementation_autoset
    attn_implementation architectures model_type transformers_version torch_dtype dtype use_bfloat16
    torchscript tokenizer_class finetuning_task task_specific_params problem_type id2label label2id
    num_labels prefix output_attentions output_hidden_states output_past return_dict use_return_dict
    return_dict_in_generate use_cache chunk_size_feed_forward gradient_checkpointing tf_legacy_loss
    tie_weights_ tie_encoder_decoder initializer_range initializer_factor bos_token_id eos_token_id
    sep_token_id cls_token_id mask_token_id decoder_start_token_id forced_bos_token_id
    forced_eos_token_id max_length min_length do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    output_scores remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens
    """.split()  # noqa: SIM905 (a name a line would be sixty lines)
)

# Fields that do change it, and the only value with which ours is the same.
FIXED: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "cross_attention_hidden_size": None,
}


def check_fields(
    content: Mapping[str, Any], known: frozenset[str], fixed: Mapping[str, Any]
) -> None:
    """Raises a ValueError that names every field whose value may change what the model computes.

    A field that nobody here knows is let through only where it is off: null, false or empty.
    """
    fixed = FIXED | dict(fixed)
    wrong = [
        f"{name} is {content[name]!r}, and only {value!r} is supported"
        for name, value in fixed.items()
        if name in content and content[name] != value
    ]
    strange = content.keys() - known - METADATA - fixed.keys()
    wrong += [
        f"{name} is {content[name]!r}, a field that is not known here"
        for name in sorted(strange)
        if content[name] not in (None, False, "", [], {})
    ]
    if wrong:
        raise ValueError(
            f"{'; '.join(wrong)}. A model without it would compute something else; if the field "
            "is without effect, take it out of the file"
        )


def read_fields(
    content: Mapping[str, Any], names: Mapping[str, str], default: Any
) -> dict[str, Any]:
    """The Hub's fields that are there, by our names and of our defaults' types."""
    return {
        ours: _value(theirs, content[theirs], getattr(default, ours))
        for theirs, ours in names.items()
        if theirs in content
    }


def _value(name: str, value: Any, default: Any) -> Any:
    value = tuple(value) if isinstance(value, list) else value
    if type(value) is int and type(default) is float:
        value = float(value)
    if type(value) is not type(default):
        raise ValueError(f"{name} is {value!r}, expected something like {default!r}")
    return value


def read_activation(content: Mapping[str, Any], name: str, default: Activation) -> Activation:
    value = content.get(name)
    if value is None:
        return default
    if value not in ACTIVATIONS:
        raise ValueError(f"{name} is {value!r}, expected one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def activation_name(activation: Activation) -> str:
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation)


def num_classes(content: Mapping[str, Any]) -> int:
    """As transformers has it: as many as `id2label` names, else `num_labels`, else 2.

    It leaves `id2label` out of the config of a model with two classes.
    """
    labels, count = content.get("id2label"), content.get("num_labels")
    if labels is None:
        count = 2 if count is None else count
    elif not isinstance(labels, Mapping):
        raise ValueError(f"id2label is {labels!r}, expected something like {{'0': 'cat'}}")
    elif count not in (None, len(labels)):
        raise ValueError(f"num_labels is {count!r}, but id2label names {len(labels)}; mend either")
    else:
        count = len(labels)
    if type(count) is not int or count < 1:
        raise ValueError(
            f"the config has {count!r} labels (id2label, num_labels), expected 1 or more"
        )
    return count


def label_fields(count: int) -> dict[str, Any]:
    """`id2label` and `label2id`, from which transformers counts the classes."""
    labels = [f"LABEL_{index}" for index in range(count)]
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def head_of(content: Mapping[str, Any], heads: Mapping[str, str]) -> str:
    """The head that the config's one architecture has, by our name."""
    architectures = content.get("architectures")
    if isinstance(architectures, list) and len(architectures) == 1 and architectures[0] in heads:
        return heads[architectures[0]]
    raise ValueError(f"architectures is {architectures!r}, expected one of {sorted(heads)}")
