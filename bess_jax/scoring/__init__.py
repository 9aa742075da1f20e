"""Score functions: a query, a key and how the two become a score.

`base` is their contract, with the dot product; `distance` has the distances and `pairs` their loops over all pairs;
`initializers` draw rows. Models: `translational`, `affine`, `bilinear`, `boxe`, `conve`.
"""

from bess_jax.scoring.affine import InterHT as InterHT
from bess_jax.scoring.affine import PairRE as PairRE
from bess_jax.scoring.affine import TranS as TranS
from bess_jax.scoring.affine import TripleRE as TripleRE
from bess_jax.scoring.base import BaseScoreFunction as BaseScoreFunction
from bess_jax.scoring.bilinear import ComplEx as ComplEx
from bess_jax.scoring.bilinear import DistMult as DistMult
from bess_jax.scoring.boxe import BoxE as BoxE
from bess_jax.scoring.conve import ConvE as ConvE
from bess_jax.scoring.translational import RotatE as RotatE
from bess_jax.scoring.translational import TransE as TransE
