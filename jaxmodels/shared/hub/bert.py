"""BERT, RoBERTa and DistilBERT on the Hub: their configs and tensors' names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxmodels.shared.configs import BERTConfig
from jaxmodels.shared.hub import fields

HEADS = {
    "Model": "none",
    "ForMaskedLM": "masked-lm",
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
}


@dataclass(frozen=True)
class _Family:
    """What a family calls its fields and modules; `{}` is a block's number."""

    default: BERTConfig  # transformers' own
    class_name: str
    prefix: str
    fields: Mapping[str, str]
    activation: str
    classifier_dropout: str
    body: Mapping[str, str]
    masked_lm: Mapping[str, str]
    tied: Mapping[str, str]


_FIELDS = {
    "vocab_size": "vocabulary_size",
    "max_position_embeddings": "context_length",
    "type_vocab_size": "type_vocabulary_size",
    "pad_token_id": "padding_id",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_dim",
    "hidden_dropout_prob": "dropout_rate",
    "attention_probs_dropout_prob": "attention_dropout_rate",
    "layer_norm_eps": "layer_norm_epsilon",
    "initializer_range": "embedding_deviation",
}
_BODY = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "type_embedding": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "blocks.{}.attention.query": "encoder.layer.{}.attention.self.query",
    "blocks.{}.attention.key": "encoder.layer.{}.attention.self.key",
    "blocks.{}.attention.value": "encoder.layer.{}.attention.self.value",
    "blocks.{}.attention.output": "encoder.layer.{}.attention.output.dense",
    "blocks.{}.norm1": "encoder.layer.{}.attention.output.LayerNorm",
    "blocks.{}.linear1": "encoder.layer.{}.intermediate.dense",
    "blocks.{}.linear2": "encoder.layer.{}.output.dense",
    "blocks.{}.norm2": "encoder.layer.{}.output.LayerNorm",
}

FAMILIES = {
    "bert": _Family(
        default=BERTConfig(),
        class_name="Bert",
        prefix="bert.",
        fields=_FIELDS,
        activation="hidden_act",
        classifier_dropout="classifier_dropout",
        body=_BODY,
        masked_lm={
            "masked_lm.linear": "cls.predictions.transform.dense",
            "masked_lm.norm": "cls.predictions.transform.LayerNorm",
            "masked_lm": "cls.predictions",
        },
        tied={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    ),
    "roberta": _Family(
        default=BERTConfig(family="roberta", vocabulary_size=50_265, padding_id=1),
        class_name="Roberta",
        prefix="roberta.",
        fields=_FIELDS,
        activation="hidden_act",
        classifier_dropout="classifier_dropout",
        body=_BODY,
        masked_lm={
            "masked_lm.linear": "lm_head.dense",
            "masked_lm.norm": "lm_head.layer_norm",
            "masked_lm": "lm_head",
        },
        tied={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    ),
    "distilbert": _Family(
        default=BERTConfig(
            family="distilbert",
            type_vocabulary_size=0,
            num_layers=6,
            classifier_dropout_rate=0.2,
        ),
        class_name="DistilBert",
        prefix="distilbert.",
        fields={
            "vocab_size": "vocabulary_size",
            "max_position_embeddings": "context_length",
            "pad_token_id": "padding_id",
            "dim": "hidden_dim",
            "n_layers": "num_layers",
            "n_heads": "num_heads",
            "hidden_dim": "mlp_dim",
            "dropout": "dropout_rate",
            "attention_dropout": "attention_dropout_rate",
            "initializer_range": "embedding_deviation",
        },
        activation="activation",
        classifier_dropout="seq_classif_dropout",
        body={
            "token_embedding": "embeddings.word_embeddings",
            "position_embedding": "embeddings.position_embeddings",
            "embedding_norm": "embeddings.LayerNorm",
            "blocks.{}.attention.query": "transformer.layer.{}.attention.q_lin",
            "blocks.{}.attention.key": "transformer.layer.{}.attention.k_lin",
            "blocks.{}.attention.value": "transformer.layer.{}.attention.v_lin",
            "blocks.{}.attention.output": "transformer.layer.{}.attention.out_lin",
            "blocks.{}.norm1": "transformer.layer.{}.sa_layer_norm",
            "blocks.{}.linear1": "transformer.layer.{}.ffn.lin1",
            "blocks.{}.linear2": "transformer.layer.{}.ffn.lin2",
            "blocks.{}.norm2": "transformer.layer.{}.output_layer_norm",
        },
        masked_lm={
            "masked_lm.linear": "vocab_transform",
            "masked_lm.norm": "vocab_layer_norm",
            "masked_lm": "vocab_projector",
        },
        tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ),
}

PREFIXES = tuple(family.prefix for family in FAMILIES.values())
TIED = {copy: original for family in FAMILIES.values() for copy, original in family.tied.items()}
DROPPED = (
    r"embeddings\.position_ids$",  # a buffer that counts from 0
    # The head for the next sentence, and the pooler under it, lie beside that for masked words in
    # the checkpoints of the pre-training.
    r"^cls\.seq_relationship\.",
    r"^(bert|roberta)\.pooler\.",
)


def from_hub_config(content: Mapping[str, Any]) -> BERTConfig:
    """The config that the content of a `config.json` describes.

    Raises:
        ValueError: a field has a value that we do not have, or is unknown.
    """
    family = FAMILIES[content["model_type"]]
    own = {"sinusoidal_pos_embds", "qa_dropout", "gradient_checkpointing", "directionality"}
    old = {name for name in content if name.startswith("pooler_")}  # of the multilingual BERT
    known = {*family.fields, family.activation, family.classifier_dropout, *own, *old}
    fields.check_fields(content, frozenset(known), {})
    head = fields.head_of(content, {family.class_name + k: v for k, v in HEADS.items()})
    config = replace(
        family.default,
        head=head,
        num_classes=fields.num_classes(content),
        activation=fields.read_activation(content, family.activation, family.default.activation),
        **fields.read_fields(content, family.fields, family.default),
    )
    rate = content.get(family.classifier_dropout)
    if family.class_name != "DistilBert":
        rate = config.dropout_rate if rate is None else rate
    elif head == "token-classification":
        rate = config.dropout_rate  # its own field is for sequences alone
    return config if rate is None else replace(config, classifier_dropout_rate=float(rate))


def to_hub_config(config: BERTConfig) -> dict[str, Any]:
    """The content of the `config.json` that transformers reads.

    Raises:
        ValueError: transformers' model has no such setting.
    """
    family = FAMILIES[config.family]
    default = family.default
    if config.family == "distilbert" and config.layer_norm_epsilon != default.layer_norm_epsilon:
        raise ValueError(
            f"layer_norm_epsilon is {config.layer_norm_epsilon}, expected "
            f"{default.layer_norm_epsilon}: the Hub's DistilBERT has no other"
        )
    head = next(name for name, head in HEADS.items() if head == config.head)
    return (
        {"model_type": config.family, "architectures": [family.class_name + head]}
        | {theirs: getattr(config, ours) for theirs, ours in family.fields.items()}
        | {family.activation: fields.activation_name(config.activation)}
        | {family.classifier_dropout: config.classifier_dropout_rate}
        | fields.label_fields(config.num_classes)
    )


def hub_modules(config: BERTConfig) -> dict[str, str]:
    """The Hub's name of each of our modules that has tensors, by our own dotted path."""
    family = FAMILIES[config.family]
    prefix = "" if config.head == "none" else family.prefix
    modules = {ours: prefix + theirs for ours, theirs in family.body.items()}
    if config.head == "masked-lm":
        return modules | dict(family.masked_lm)
    if config.head == "none" and config.pooled:
        return modules | {"pooler": "pooler.dense"}
    if config.head == "sequence-classification":
        pooler = {
            "bert": "bert.pooler.dense",
            "roberta": "classifier.dense",
            "distilbert": "pre_classifier",
        }
        modules["pooler"] = pooler[config.family]
        if config.family == "roberta":
            return modules | {"classifier": "classifier.out_proj"}
    return modules if config.head == "none" else modules | {"classifier": "classifier"}
