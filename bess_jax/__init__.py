"""Knowledge-graph embeddings in JAX, sharded with BESS (Balanced Entity Sampling and Sharing)."""

from bess_jax.batch_sampler import RandomShardedBatchSampler as RandomShardedBatchSampler
from bess_jax.batch_sampler import RigidShardedBatchSampler as RigidShardedBatchSampler
from bess_jax.bess import BessKGE as BessKGE
from bess_jax.bess import EmbeddingMovingBessKGE as EmbeddingMovingBessKGE
from bess_jax.bess import Params as Params
from bess_jax.dataset import KGDataset as KGDataset
from bess_jax.datasets import load_dataset as load_dataset
from bess_jax.loader import merge_ids as merge_ids
from bess_jax.loader import prefetch as prefetch
from bess_jax.loader import shard_major as shard_major
from bess_jax.loss import LogSigmoidLoss as LogSigmoidLoss
from bess_jax.loss import LpRegularization as LpRegularization
from bess_jax.loss import MarginRankingLoss as MarginRankingLoss
from bess_jax.loss import SampledSoftmaxCrossEntropyLoss as SampledSoftmaxCrossEntropyLoss
from bess_jax.metric import Evaluation as Evaluation
from bess_jax.negative_sampler import RandomShardedNegativeSampler as RandomShardedNegativeSampler
from bess_jax.negative_sampler import ShardedNegativeSampler as ShardedNegativeSampler
from bess_jax.optim import UpdateRule as UpdateRule
from bess_jax.optim import dense as dense
from bess_jax.optim import row_sparse as row_sparse
from bess_jax.pipeline import KnownAnswers as KnownAnswers
from bess_jax.pipeline import Ranker as Ranker
from bess_jax.pipeline import Ranks as Ranks
from bess_jax.scoring import BaseScoreFunction as BaseScoreFunction
from bess_jax.scoring import ComplEx as ComplEx
from bess_jax.scoring import DistMult as DistMult
from bess_jax.scoring import TransE as TransE
from bess_jax.sharding import PartitionedTripleSet as PartitionedTripleSet
from bess_jax.sharding import Sharding as Sharding
from bess_jax.spmd import Placement as Placement
from bess_jax.spmd import request_devices as request_devices
from bess_jax.train import TrainState as TrainState
from bess_jax.train import make_train_step as make_train_step

__version__ = "0.1.0"
