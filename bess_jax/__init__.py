"""Knowledge-graph embeddings in JAX, sharded with BESS (Balanced Entity Sampling and Sharing).

A name is imported when it is first used: data and samplers do not wait for Flax and Optax.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names for tools that read the file
    from bess_jax.accumulation import accumulate as accumulate
    from bess_jax.accumulation import group_steps as group_steps
    from bess_jax.all_scores import AllScoresPipeline as AllScoresPipeline
    from bess_jax.answers import Answers as Answers
    from bess_jax.answers import Candidates as Candidates
    from bess_jax.answers import KnownAnswers as KnownAnswers
    from bess_jax.batch_sampler import RandomShardedBatchSampler as RandomShardedBatchSampler
    from bess_jax.batch_sampler import RigidShardedBatchSampler as RigidShardedBatchSampler
    from bess_jax.bess import BessKGE as BessKGE
    from bess_jax.bess import EmbeddingMovingBessKGE as EmbeddingMovingBessKGE
    from bess_jax.bess import Params as Params
    from bess_jax.dataset import KGDataset as KGDataset
    from bess_jax.datasets import load_dataset as load_dataset
    from bess_jax.embedding import init_KGE_normal as init_KGE_normal
    from bess_jax.embedding import init_KGE_uniform as init_KGE_uniform
    from bess_jax.embedding import init_uniform_norm as init_uniform_norm
    from bess_jax.embedding import init_uniform_rotation as init_uniform_rotation
    from bess_jax.embedding import init_xavier_norm as init_xavier_norm
    from bess_jax.embedding import initialize_entity_embedding as initialize_entity_embedding
    from bess_jax.embedding import reshard as reshard
    from bess_jax.embedding import shard_table as shard_table
    from bess_jax.embedding import unshard as unshard
    from bess_jax.loader import merge_ids as merge_ids
    from bess_jax.loader import prefetch as prefetch
    from bess_jax.loader import shard_major as shard_major
    from bess_jax.loss import BCEWithLogitsLoss as BCEWithLogitsLoss
    from bess_jax.loss import LogSigmoidLoss as LogSigmoidLoss
    from bess_jax.loss import LpRegularization as LpRegularization
    from bess_jax.loss import MarginRankingLoss as MarginRankingLoss
    from bess_jax.loss import SampledSoftmaxCrossEntropyLoss as SampledSoftmaxCrossEntropyLoss
    from bess_jax.loss import SoftmaxCrossEntropyLoss as SoftmaxCrossEntropyLoss
    from bess_jax.metric import Evaluation as Evaluation
    from bess_jax.negative_sampler import AllEntitiesNegativeSampler as AllEntitiesNegativeSampler
    from bess_jax.negative_sampler import PlaceholderNegativeSampler as PlaceholderNegativeSampler
    from bess_jax.negative_sampler import RandomShardedNegativeSampler as RandomShardedNegativeSampler
    from bess_jax.negative_sampler import ShardedNegativeSampler as ShardedNegativeSampler
    from bess_jax.negative_sampler import TripleBasedShardedNegativeSampler as TripleBasedShardedNegativeSampler
    from bess_jax.negative_sampler import TypeBasedShardedNegativeSampler as TypeBasedShardedNegativeSampler
    from bess_jax.optim import UpdateRule as UpdateRule
    from bess_jax.optim import dense as dense
    from bess_jax.optim import row_adagrad as row_adagrad
    from bess_jax.optim import row_sparse as row_sparse
    from bess_jax.pipeline import Ranker as Ranker
    from bess_jax.precision import cast_params as cast_params
    from bess_jax.precision import low_precision as low_precision
    from bess_jax.precision import stochastic_round as stochastic_round
    from bess_jax.predictor import Predictor as Predictor
    from bess_jax.queries import AllScoresBESS as AllScoresBESS
    from bess_jax.queries import TopKQueryBessKGE as TopKQueryBessKGE
    from bess_jax.ranks import Ranks as Ranks
    from bess_jax.score_moving import ScoreMovingBessKGE as ScoreMovingBessKGE
    from bess_jax.scoring import BaseScoreFunction as BaseScoreFunction
    from bess_jax.scoring import BoxE as BoxE
    from bess_jax.scoring import ComplEx as ComplEx
    from bess_jax.scoring import ConvE as ConvE
    from bess_jax.scoring import DistMult as DistMult
    from bess_jax.scoring import InterHT as InterHT
    from bess_jax.scoring import PairRE as PairRE
    from bess_jax.scoring import RotatE as RotatE
    from bess_jax.scoring import TranS as TranS
    from bess_jax.scoring import TransE as TransE
    from bess_jax.scoring import TripleRE as TripleRE
    from bess_jax.sharding import PartitionedTripleSet as PartitionedTripleSet
    from bess_jax.sharding import Sharding as Sharding
    from bess_jax.similarity import Neighbours as Neighbours
    from bess_jax.spmd import Placement as Placement
    from bess_jax.spmd import request_devices as request_devices
    from bess_jax.train import TrainState as TrainState
    from bess_jax.train import init_train_state as init_train_state
    from bess_jax.train import make_train_step as make_train_step

_NAMES = {
    "accumulation": ("accumulate", "group_steps"),
    "all_scores": ("AllScoresPipeline",),
    "answers": ("Answers", "Candidates", "KnownAnswers"),
    "batch_sampler": ("RandomShardedBatchSampler", "RigidShardedBatchSampler"),
    "bess": ("BessKGE", "EmbeddingMovingBessKGE", "Params"),
    "dataset": ("KGDataset",),
    "datasets": ("load_dataset",),
    "embedding": (
        "init_KGE_normal",
        "init_KGE_uniform",
        "init_uniform_norm",
        "init_uniform_rotation",
        "init_xavier_norm",
        "initialize_entity_embedding",
        "reshard",
        "shard_table",
        "unshard",
    ),
    "loader": ("merge_ids", "prefetch", "shard_major"),
    "loss": (
        "BCEWithLogitsLoss",
        "LogSigmoidLoss",
        "LpRegularization",
        "MarginRankingLoss",
        "SampledSoftmaxCrossEntropyLoss",
        "SoftmaxCrossEntropyLoss",
    ),
    "metric": ("Evaluation",),
    "negative_sampler": (
        "AllEntitiesNegativeSampler",
        "PlaceholderNegativeSampler",
        "RandomShardedNegativeSampler",
        "ShardedNegativeSampler",
        "TripleBasedShardedNegativeSampler",
        "TypeBasedShardedNegativeSampler",
    ),
    "optim": ("UpdateRule", "dense", "row_adagrad", "row_sparse"),
    "pipeline": ("Ranker",),
    "precision": ("cast_params", "low_precision", "stochastic_round"),
    "predictor": ("Predictor",),
    "queries": ("AllScoresBESS", "TopKQueryBessKGE"),
    "ranks": ("Ranks",),
    "score_moving": ("ScoreMovingBessKGE",),
    "scoring": (
        "BaseScoreFunction",
        "BoxE",
        "ComplEx",
        "ConvE",
        "DistMult",
        "InterHT",
        "PairRE",
        "RotatE",
        "TranS",
        "TransE",
        "TripleRE",
    ),
    "sharding": ("PartitionedTripleSet", "Sharding"),
    "similarity": ("Neighbours",),
    "spmd": ("Placement", "request_devices"),
    "train": ("TrainState", "init_train_state", "make_train_step"),
}
"""Module -> what it adds to the package."""

_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *_MODULE_OF]

if not TYPE_CHECKING:  # tools would take any name for one that exists

    def __getattr__(name: str) -> Any:
        if name in _NAMES:
            return importlib.import_module(f"bess_jax.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'bess_jax' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"bess_jax.{_MODULE_OF[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
