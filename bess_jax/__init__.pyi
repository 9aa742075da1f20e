"""The public names, in the order of the story; `__init__.py` reads them here and imports each when it is first used."""

from bess_jax import init as init
from bess_jax import reference as reference

from bess_jax.data.dataset import KGDataset as KGDataset
from bess_jax.data.graphs import load_dataset as load_dataset
from bess_jax.data.files import DataError as DataError
from bess_jax.data.files import DataWarning as DataWarning
from bess_jax.data.card import describe as describe
from bess_jax.data.card import Card as Card
from bess_jax.data.card import Degrees as Degrees
from bess_jax.data.findings import Finding as Finding
from bess_jax.data.sharding import Sharding as Sharding
from bess_jax.data.sharding import PartitionedTripleSet as PartitionedTripleSet
from bess_jax.data.negative_sampler import ShardedNegativeSampler as ShardedNegativeSampler
from bess_jax.data.negative_sampler import RandomShardedNegativeSampler as RandomShardedNegativeSampler
from bess_jax.data.negative_sampler import TypeBasedShardedNegativeSampler as TypeBasedShardedNegativeSampler
from bess_jax.data.negative_sampler import TripleBasedShardedNegativeSampler as TripleBasedShardedNegativeSampler
from bess_jax.data.negative_sampler import AllEntitiesNegativeSampler as AllEntitiesNegativeSampler
from bess_jax.data.batch_sampler import RigidShardedBatchSampler as RigidShardedBatchSampler
from bess_jax.data.batch_sampler import RandomShardedBatchSampler as RandomShardedBatchSampler
from bess_jax.data.loader import merge_ids as merge_ids
from bess_jax.data.loader import shard_major as shard_major
from bess_jax.data.loader import prefetch as prefetch

from bess_jax.kernels import use_kernels as use_kernels

from bess_jax.scoring import BaseScoreFunction as BaseScoreFunction
from bess_jax.scoring import TransE as TransE
from bess_jax.scoring import RotatE as RotatE
from bess_jax.scoring import PairRE as PairRE
from bess_jax.scoring import TripleRE as TripleRE
from bess_jax.scoring import DistMult as DistMult
from bess_jax.scoring import ComplEx as ComplEx
from bess_jax.scoring import ConvE as ConvE
from bess_jax.scoring import BoxE as BoxE
from bess_jax.scoring import InterHT as InterHT
from bess_jax.scoring import TranS as TranS

from bess_jax.step.spmd import Placement as Placement
from bess_jax.step.spmd import request_devices as request_devices
from bess_jax.step.collectives import use_exchange as use_exchange
from bess_jax.step.bess import Params as Params
from bess_jax.step.tables import shard_table as shard_table
from bess_jax.step.tables import unshard as unshard
from bess_jax.step.tables import reshard as reshard
from bess_jax.step.loss import LogSigmoidLoss as LogSigmoidLoss
from bess_jax.step.loss import MarginRankingLoss as MarginRankingLoss
from bess_jax.step.loss import SampledSoftmaxCrossEntropyLoss as SampledSoftmaxCrossEntropyLoss
from bess_jax.step.loss import SoftmaxCrossEntropyLoss as SoftmaxCrossEntropyLoss
from bess_jax.step.loss import BCEWithLogitsLoss as BCEWithLogitsLoss
from bess_jax.step.loss import LpRegularization as LpRegularization
from bess_jax.step.loss import DuraRegularization as DuraRegularization
from bess_jax.step.rows import RowDropout as RowDropout
from bess_jax.step.metric import Evaluation as Evaluation
from bess_jax.step.bess import BessKGE as BessKGE
from bess_jax.step.embedding_moving import EmbeddingMovingBessKGE as EmbeddingMovingBessKGE
from bess_jax.step.score_moving import ScoreMovingBessKGE as ScoreMovingBessKGE

from bess_jax.update.optim import UpdateRule as UpdateRule
from bess_jax.update.optim import dense as dense
from bess_jax.update.optim import row_sparse as row_sparse
from bess_jax.update.optim import row_adagrad as row_adagrad
from bess_jax.update.precision import cast_params as cast_params
from bess_jax.update.precision import low_precision as low_precision
from bess_jax.update.precision import stochastic_round as stochastic_round
from bess_jax.update.accumulation import accumulate as accumulate
from bess_jax.update.accumulation import group_steps as group_steps
from bess_jax.update.train import TrainState as TrainState
from bess_jax.update.train import init_train_state as init_train_state
from bess_jax.update.train import make_train_step as make_train_step

from bess_jax.ask.known import KnownAnswers as KnownAnswers
from bess_jax.ask.known import Candidates as Candidates
from bess_jax.ask.known import Answers as Answers
from bess_jax.ask.ranker import Ranker as Ranker
from bess_jax.ask.ranks import Ranks as Ranks
from bess_jax.ask.similarity import Neighbours as Neighbours

from bess_jax.run.config import TrainConfig as TrainConfig
from bess_jax.run.recipes import recipe_for as recipe_for
from bess_jax.run.experiment import Experiment as Experiment
from bess_jax.run.experiment import NonFiniteLossError as NonFiniteLossError
from bess_jax.run.callbacks import Callback as Callback
from bess_jax.run.callbacks import EpochLines as EpochLines
from bess_jax.run.checkpoint import NonFiniteStateError as NonFiniteStateError
from bess_jax.run.folder import RunFolder as RunFolder
from bess_jax.run.loop import Run as Run
from bess_jax.run.fit import fit as fit

from bess_jax.predict.embeddings import EmbeddingTable as EmbeddingTable
from bess_jax.predict.export import export as export
from bess_jax.predict.predictor import Predictor as Predictor
from bess_jax.predict.tables import Tables as Tables
from bess_jax.predict.pykeen import from_pykeen as from_pykeen
from bess_jax.predict.libkge import from_libkge as from_libkge
from bess_jax.predict.besskge import from_besskge as from_besskge

from bess_jax.tune.search import search as search

# Names of BESS-KGE that live in `init` and `reference`; not in `__all__`.
from bess_jax.init import *
from bess_jax.reference import *

__version__: str
