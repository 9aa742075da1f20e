"""Score functions."""

from bess_jax.scoring.base import BaseScoreFunction as BaseScoreFunction
from bess_jax.scoring.bilinear import ComplEx as ComplEx
from bess_jax.scoring.bilinear import DistMult as DistMult
from bess_jax.scoring.translational import TransE as TransE
