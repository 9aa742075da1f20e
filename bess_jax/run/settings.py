"""The settings of a training run, in groups, which TOML files may have as headings; `TrainConfig` has them all."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Mapping
from typing import Literal, TypeAlias

from bess_jax._typing import CorruptionScheme, Mapping_
from bess_jax.kernels.bodies import Kernels

LossName: TypeAlias = Literal["softmax", "logsigmoid", "margin", "cross_entropy", "bce"]
Options: TypeAlias = Mapping[str, bool | int | float | str]
"""Arguments of what a setting names, by name."""
InitializerName: TypeAlias = Literal["normal", "uniform", "xavier", "unit", "model"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The graph, and the order of its triples."""

    dataset: str = "wn18rr"
    """Name of a graph, a file of triples, or a folder with train, valid and test; see docs/data.md."""
    columns: str | None = None
    """Columns of a file that hold head, relation and tail, by name or by number from 0, as in source,type,target."""
    split: str = "0.7,0.15,0.15"
    """Parts of train, valid and test, drawn where the data have none."""
    inverse_relations: bool = True
    """Train on inverse triples too, with relations of their own; heads are then ranked as tails of the inverse."""
    order: Literal["shuffled", "fixed", "random"] = "shuffled"
    """Order of the triples: another one every epoch, the same one, or drawn with replacement."""
    frequency_weights: bool = False
    """Weigh a triple by 1 / sqrt(count of (h, r) + count of (r, t) + weight_smoothing): rare ones count more."""
    weight_smoothing: float = 0.0
    """Added to the counts of frequency_weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The score function and its initial values."""

    model: str = "ComplEx"
    """Score function by its name, or a class of your own as package.module:Class, which Python can import from here."""
    embedding_size: int = 128
    """Components of an entity; complex ones for ComplEx and RotatE."""
    scoring_norm: Literal[1, 2] = 1
    """Norm of the models that measure a distance."""
    model_options: Options = dataclasses.field(default_factory=dict)
    """Other options of the model by name, as in u=0.5 (TripleRE) or hidden_dropout=0.1 (ConvE)."""
    entity_initializer: InitializerName = "normal"
    """Law of the initial entity embeddings, of scale init_scale (model: the one that is usual for the model)."""
    relation_initializer: InitializerName = "normal"
    """Law of the initial relation embeddings."""
    init_scale: float = 1e-3
    """Standard deviation (normal, xavier: gain), or largest number (uniform), of initial values (0: as law model)."""
    start_from: str | None = None
    """Run folder, or .npz of tables, to take initial embeddings from: those of the entities and relations it has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegativeSettings:
    """What positives are scored against."""

    negatives: Literal["random", "typed", "given", "all"] = "random"
    """Negatives: random entities, those of the type of the entity they replace, lists of the graph, or all entities."""
    n_negative: int = 1024
    """Sampled negatives each positive is scored against; a multiple of n_shard."""
    share_negatives: bool = True
    """Let the positives of a shard share their negatives (scores become a matrix product)."""
    augment_negative: bool = True
    """Also use the entities of the other positives of the shard as negatives; needs share_negatives."""
    local_negatives: bool = False
    """Take a shard's negatives from its own entities, so that none are exchanged."""
    corruption: CorruptionScheme = "t"
    """Side that negatives replace: heads, tails, or half of the batch each."""
    answers_per_query: int = 1
    """Answers of a query (h, r) that are scored together against its negatives; batch_size then counts queries."""
    duplicate_batch: bool = False
    """Have every triple twice in a batch; with corruption ht it then meets negatives of either side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What is minimized."""

    loss: LossName = "softmax"
    """Loss of positive and negative scores: softmax is for sampled negatives, cross_entropy and bce for all as well."""
    margin: float = 6.0
    """Margin of the losses logsigmoid and margin."""
    adversarial_scale: float = 1.0
    """Weigh negatives by the softmax of this times their scores (0: all the same), in logsigmoid and margin."""
    offset: float = 0.0
    """Added to all scores in bce; helps models that measure a distance, whose scores are never positive."""
    answers: Literal["one", "all"] = "one"
    """With all entities as negatives: a triple's own answer is right (1vsAll), or every answer in train (KvsAll)."""
    label_smoothing: float = 0.0
    """Part of the label that is spread over all entities, with all entities as negatives."""
    relation_weight: float = 0.0
    """Weight of predicting the relation of head and tail as well (Chen et al. 2021)."""
    regularizer: Literal["lp", "dura"] = "lp"
    """Penalty of rows in the batch: of their components, or (DURA, Zhang et al. 2020) of h, t and products with r."""
    regularization: float = 0.1
    """Weight of the p-th power of the components of the rows in the batch (N3 for ComplEx at power 3)."""
    relation_regularization: float | None = None
    """Weight of what relations have part in: their rows, or the products of dura. Default: as regularization."""
    regularization_power: Literal[1, 2, 3] = 3
    """The power p of lp."""
    entity_dropout: float = 0.0
    """Rate of dropout, in training, of the components of entity rows; each use of a row draws anew."""
    relation_dropout: float = 0.0
    """Rate of dropout of the components of relation rows, likewise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How the parameters are updated."""

    optimizer: str = "adagrad"
    """adagrad, row_adagrad (one number per row), or an element-wise optimizer of optax by its name, as adam or sgd."""
    optimizer_options: Options = dataclasses.field(default_factory=dict)
    """Other arguments of the optimizer by name, as in b1=0.8."""
    learning_rate: float = 0.2
    """Step size, and the highest one of a schedule."""
    schedule: str = "constant"
    """Course of the step size: constant, plateau, or a schedule of optax by its name, as cosine_decay_schedule."""
    schedule_options: Options = dataclasses.field(default_factory=dict)
    """Other arguments of the schedule by name, as in alpha=0.1; steps not given are those of the run after warm-up."""
    warmup: float = 0.0
    """Epochs in which the step size grows from 0 to learning_rate."""
    batch_size: int = 1024
    """Positives of a step, over all shards; a multiple of n_shard squared (twice that for corruption ht)."""
    accumulate: int = 1
    """Batches whose gradients make one update."""
    update: Literal["row_sparse", "dense"] = "row_sparse"
    """Update the rows that a batch touches, or all rows."""
    unit_entities: bool = False
    """Scale entity rows to 2-norm 1, at first and after every update (Bordes et al. 2013)."""
    table_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the tables; the optimizer works in float32 always."""
    stochastic_rounding: bool = False
    """Round new values of half-precision tables up or down at random, so that small updates are not lost."""
    loss_scale: float = 1.0
    """Factor of the loss that is taken out of the gradients again: small ones do not vanish in float16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """Where it runs, and what moves between devices."""

    n_shard: int = 4
    """Shards the entity table is cut into."""
    n_device: int | None = None
    """Devices to use, a divisor of n_shard. Default: as many accelerators as fit, else n_shard virtual CPU devices."""
    platform: Literal["cpu", "gpu", "tpu", "ipu"] | None = None
    """Kind of device. Default: JAX's choice."""
    mapping: Mapping_ = "pmap"
    """How devices run the same program."""
    scheme: Literal["embedding_moving", "score_moving"] = "embedding_moving"
    """What moves between shards: rows of negatives, or queries and scores."""
    steps_per_call: int = 16
    """Most steps in one call of the compiled program."""
    kernels: Kernels = "auto"
    """What computes distances of all pairs while a run trains: auto goes by platform, native needs a C++ compiler."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long it runs, and what is kept."""

    recipe: str | None = None
    """Name of a recipe, for all that is not given (list: shows them; none: the defaults); see docs/recipes.md."""
    n_epoch: int = 25
    """Passes over the training triples."""
    eval_every: int = 5
    """Epochs between rankings of the validation split, the last one included (0: never). The best state is kept."""
    metric: str = "mrr"
    """Validation metric that tells the best state: mrr, hits@10, mean_rank, ... of both sides, or as in tail.mrr."""
    patience: int = 0
    """Validations without a better metric after which training stops (0: never)."""
    min_improvement: float = 0.0
    """By how much a metric has to be better to count as better for patience."""
    save_every: str = "10min"
    """Time or steps between checkpoints, as in 90s, 10min, 2h or 5000steps; the end of the run is saved anyway."""
    keep: int = 2
    """How many of the latest checkpoints to keep, besides the best by validation."""
    track: str | None = None
    """Where metrics go besides metrics.jsonl and metrics.csv: tensorboard, wandb, mlflow; several joined by commas."""
    seed: int = 0
    """Seed of sharding, initial values and batches."""


GROUPS: dict[str, type] = {
    "data": DataSettings,
    "model": ModelSettings,
    "negatives": NegativeSettings,
    "loss": LossSettings,
    "optimizer": OptimizerSettings,
    "devices": DeviceSettings,
    "run": RunSettings,
}
"""Name of each group -> its settings."""

GROUP_OF = {field.name: group for group, kind in GROUPS.items() for field in dataclasses.fields(kind)}
"""Name of each setting -> its group."""


@functools.cache
def sentences() -> dict[str, str]:
    """Name of each setting -> what it is, as its docstring has it."""
    found = {}
    for kind in GROUPS.values():
        (tree,) = ast.parse(inspect.getsource(kind)).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found
