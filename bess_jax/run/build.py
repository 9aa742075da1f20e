"""The score function of a run, from its settings, and its parameters, from its last checkpoint."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

from bess_jax import scoring
from bess_jax.data.dataset import KGDataset
from bess_jax.data.sharding import Sharding
from bess_jax.run.config import TrainConfig
from bess_jax.run.folder import RunFolder
from bess_jax.scoring.initializers import init_KGE_normal
from bess_jax.step.bess import Params, ScoreState
from bess_jax.step.spmd import Placement


def make_score_fn(config: TrainConfig, dataset: KGDataset, sharding: Sharding) -> scoring.BaseScoreFunction:
    """The score function that the settings ask for.

    Raises:
        ValueError: if a setting does not fit it.
    """
    normal = partial(init_KGE_normal, std=config.init_scale, divide_by_embedding_size=False)
    initializer = normal if config.init_scale else None
    kind: type[scoring.BaseScoreFunction] = getattr(scoring, config.model)
    has_norm = "scoring_norm" in (field.name for field in dataclasses.fields(kind))
    extra: dict[str, Any] = {"scoring_norm": config.scoring_norm} if has_norm else {}
    return kind(
        negative_sample_sharing=config.share_negatives,
        sharding=sharding,
        n_relation_type=dataset.n_relation_type,
        embedding_size=config.embedding_size,
        entity_initializer=initializer,
        relation_initializer=initializer,
        inverse_relations=config.inverse_relations,
        **extra,
    )


def restore_params(
    folder: RunFolder, dataset: KGDataset, score_fn: scoring.BaseScoreFunction, placement: Placement
) -> tuple[int, Params]:
    """Calls done by the last checkpoint, and its parameters on the devices, as ranking and prediction take them.

    Raises:
        ValueError: if there is no checkpoint, or it is of another graph or another model.
    """
    shapes = _saved_shapes(score_fn)
    n_call, arrays = folder.restore({name: placement.shapes(tree) for name, tree in shapes.items()}, dataset)
    params: Params = arrays["params"]
    if score_fn.has_network:
        params = params._replace(score_state=arrays["score_state"].statistics)
    return n_call, placement.put(params)


def _saved_shapes(score_fn: scoring.BaseScoreFunction) -> dict[str, Any]:
    """Name in a checkpoint -> shapes of one shard."""
    entity = jax.ShapeDtypeStruct((score_fn.sharding.max_entity_per_shard, score_fn.entity_width), np.float32)
    if not score_fn.has_network:
        table = jax.ShapeDtypeStruct((score_fn.n_relation, score_fn.relation_width), np.float32)
        return {"params": Params(entity, {"relation_embedding": table})}
    statistics, key = jax.eval_shape(score_fn.init_state), jax.ShapeDtypeStruct((2,), np.uint32)
    params = Params(entity, jax.eval_shape(score_fn.init_params, jax.random.PRNGKey(0)))
    return {"params": params, "score_state": ScoreState(statistics, key)}
