"""ConvE, a convolutional network of the head and the relation."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import Self
from bess_jax._numerics import relu
from bess_jax._typing import AxisName
from bess_jax.scoring.base import BaseScoreFunction, Combiner, DotProduct, Part
from bess_jax.scoring.initializers import init_xavier_norm

_HIGHEST = jax.lax.Precision.HIGHEST


class BatchNorm(nn.BatchNorm):
    """Flax's batch normalization, with the unbiased variance in the running statistics, as PyTorch has it.

    Attributes:
        n_replica: replicas that `axis_name` runs over.
    """

    axis_name: Any = None
    n_replica: int = 1

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """`x` (..., C), each channel normalized."""
        with jax.numpy_dtype_promotion("standard"):  # statistics are float32, whatever x is
            learns = not (self.use_running_average or self.is_initializing())
            kept = self.momentum * self.get_variable("batch_stats", "var") if learns else None
            y: jax.Array = super().__call__(x)
            if learns:
                n = self.n_replica * x.size // x.shape[-1]
                new: Any = self.get_variable("batch_stats", "var") - kept
                self.put_variable("batch_stats", "var", kept + new * (n / max(n - 1, 1)))
        return y


class ConvE(BaseScoreFunction):
    """<network(h, r), t> + bias of t. Scores only tails.

    The network stacks h and r, each (C, height, width), to (C, 2 height, width): normalization, dropout, convolution,
    normalization, ReLU, dropout of whole channels, linear map to D, dropout, normalization, ReLU. It runs once for each
    (h, r).

    Attributes:
        embedding_height: height; default: the largest that makes the pictures no higher than wide.
        embedding_width: width; C times height times width must be D.
        input_channels: C.
        output_channels: channels of the convolution.
        kernel_height: height of its kernel.
        kernel_width: width of its kernel.
        input_dropout: rate of dropout before the convolution.
        feature_map_dropout: rate of dropout after the convolution.
        hidden_dropout: rate of dropout after the linear map.
        batch_normalization: normalize by the statistics of the batch.
        synchronize_batch_norm: in training, by those of the batches of all shards, not of each its own.
        training_axis: set by `in_training`: name of the shard axis.

    Dettmers et al. 2018. BESS-KGE: `ConvE`. Differs from BESS-KGE: `score_heads` is refused.
    """

    inverse_relations: bool = True
    embedding_height: int | None = None
    embedding_width: int | None = None
    input_channels: int = 1
    output_channels: int = 32
    kernel_height: int = 3
    kernel_width: int = 3
    input_dropout: float = 0.2
    feature_map_dropout: float = 0.2
    hidden_dropout: float = 0.3
    batch_normalization: bool = True
    synchronize_batch_norm: bool = False
    training_axis: AxisName | None = None

    scores_heads: ClassVar[bool] = False
    has_network: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.at_least("input_channels", self.input_channels, 1)
        _checks.at_least("output_channels", self.output_channels, 1)
        for name in ("input_dropout", "feature_map_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        (height, width), channels = self.picture, self.input_channels
        if min(height, width) < 1 or channels * height * width != self.embedding_size:
            raise ValueError(
                f"embedding_size must be input_channels * embedding_height * embedding_width, got "
                f"{self.embedding_size} and {channels} * {height} * {width}"
            )
        for name, kernel, most in (("height", self.kernel_height, 2 * height), ("width", self.kernel_width, width)):
            if not 1 <= kernel <= most:
                raise ValueError(
                    f"kernel_{name} must be between 1 and {most}, the {name} of the pictures of embedding_size "
                    f"{self.embedding_size}, got {kernel}; give a smaller kernel or another embedding_{name}"
                )

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width."""
        size, height, width = self.embedding_size // self.input_channels, self.embedding_height, self.embedding_width
        if height is None and width is None:
            height = max(h for h in range(1, math.isqrt(size) + 1) if size % h == 0)
        height = size // (width or 1) if height is None else height
        return height, size // max(height, 1) if width is None else width

    def setup(self) -> None:
        """Declares the relation table and the network."""
        super().setup()
        axis, training = self.training_axis, self.training_axis is not None
        together = training and self.synchronize_batch_norm
        norm: Any = partial(
            BatchNorm,
            use_running_average=not training,
            momentum=0.9,
            use_fast_variance=False,
            axis_name=axis if together else None,
            n_replica=self.sharding.n_shard if together else 1,
        )
        if not self.batch_normalization:
            norm = _Identity
        drop = partial(nn.Dropout, deterministic=not training)
        self.input_norm, self.output_norm, self.hidden_norm = norm(), norm(), norm()
        self.input_drop, self.hidden_drop = drop(self.input_dropout), drop(self.hidden_dropout)
        self.feature_map_drop = drop(self.feature_map_dropout, broadcast_dims=(1, 2))
        kernel = (self.kernel_height, self.kernel_width)
        convolution = partial(nn.Conv, padding="VALID", precision=_HIGHEST, conv_general_dilated=_convolve)
        self.convolution = convolution(self.output_channels, kernel)
        product = partial(_product_channels_first, n_channel=self.output_channels)
        self.linear = nn.Dense(self.embedding_size, precision=_HIGHEST, dot_general=product)

    @property
    def entity_parts(self) -> tuple[Part, ...]:
        """e and the bias of a tail."""
        return (Part("entity", self.embedding_size, init_xavier_norm), Part("bias", 1, nn.initializers.zeros))

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """A picture."""
        return (Part("relation", self.embedding_size, init_xavier_norm),)

    @property
    def combiner(self) -> Combiner:
        """Dot product, in which the bias is one more component."""
        return DotProduct()

    def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
        """network(h, r) and 1."""
        if self.batch_normalization and not self.is_initializing() and "batch_stats" not in self.variables:
            raise ValueError("ConvE needs its running statistics: the batch_stats of training, or those of init_state")
        pictures = [x.reshape(-1, self.input_channels, *self.picture) for x in (self.split_entity(head)[0], relation)]
        x = jnp.moveaxis(jnp.concatenate(pictures, axis=2), 1, -1)  # (b, 2 height, width, C), as Flax has it
        x = self.convolution(self.input_drop(self.input_norm(x)))
        x = self.feature_map_drop(relu(self.output_norm(x)))
        x = self.linear(x.reshape(len(x), -1))
        x = relu(self.hidden_norm(self.hidden_drop(x)))
        return jnp.concatenate([x, jnp.ones_like(x, shape=(len(x), 1))], axis=-1)

    def query_head(self, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "ConvE scores only tails: ask for heads as tails of inverse relations (inverse_relations=True here, and "
            "add_inverse_triples=True where the triples are partitioned)"
        )

    def compared_entity(self, entity: jax.Array) -> jax.Array:
        """e: the bias tells how often an entity is an answer, not what it is like."""
        return self.split_entity(entity)[0]

    def in_training(self, axis_name: AxisName) -> Self:
        """See `BaseScoreFunction.in_training`."""
        return self.clone(training_axis=axis_name)


def _convolve(picture: jax.Array, kernel: jax.Array, *_: Any, precision: Any, **__: Any) -> jax.Array:
    """(b, height, width, C) by (h, w, C, n), "valid", as one product: XLA's gradient takes 8 times as long on a CPU."""
    h, w, *channels = kernel.shape
    height, width = picture.shape[1] - h + 1, picture.shape[2] - w + 1
    patches = [picture[:, i : i + height, j : j + width] for i in range(h) for j in range(w)]
    flat = jnp.concatenate(patches, axis=-1).reshape(-1, h * w * channels[0])
    product = jnp.matmul(flat, kernel.reshape(-1, channels[1]), precision=precision)
    return product.reshape(-1, height, width, channels[1])


def _product_channels_first(x: jax.Array, kernel: jax.Array, *_: Any, n_channel: int, precision: Any) -> jax.Array:
    """x (b, n * C), channels last, by a kernel (C * n, D), channels first as PyTorch has them."""
    by_channel = kernel.reshape(n_channel, -1, kernel.shape[-1])
    return jnp.matmul(x, jnp.swapaxes(by_channel, 0, 1).reshape(kernel.shape), precision=precision)


class _Identity(nn.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x
