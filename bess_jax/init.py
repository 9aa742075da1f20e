"""Initializers of embeddings: functions `(key, shape, dtype) -> array`; options are set with `functools.partial`."""

from bess_jax.scoring.initializers import init_KGE_normal as init_KGE_normal
from bess_jax.scoring.initializers import init_KGE_uniform as init_KGE_uniform
from bess_jax.scoring.initializers import init_uniform_norm as init_uniform_norm
from bess_jax.scoring.initializers import init_uniform_rotation as init_uniform_rotation
from bess_jax.scoring.initializers import init_xavier_norm as init_xavier_norm
