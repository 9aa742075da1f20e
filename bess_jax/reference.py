"""What BESS-KGE has and this package does in another way: kept for its users, and compared with it value by value.

`Ranker` answers the same questions exactly, without lists or tables of scores.
"""

from bess_jax.ask.all_scores import AllScoresBESS as AllScoresBESS
from bess_jax.ask.all_scores import AllScoresPipeline as AllScoresPipeline
from bess_jax.ask.all_scores import get_entity_filter as get_entity_filter
from bess_jax.ask.topk import TopKQueryBessKGE as TopKQueryBessKGE
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler as PlaceholderNegativeSampler
from bess_jax.step.tables import initialize_entity_embedding as initialize_entity_embedding
from bess_jax.step.tables import initialize_relation_embedding as initialize_relation_embedding
from bess_jax.step.tables import update_sharding as update_sharding
