"""ConvE, a convolutional network of the head and the relation."""

from __future__ import annotations

import math
from collections.abc import Callable
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
_MOMENTUM = 0.9


class BatchNorm(nn.Module):
    """Batch normalization with PyTorch's running statistics, whose variance is the unbiased one.

    The variance is the mean of squared deviations, not mean(x^2) - mean(x)^2, which loses digits.

    Attributes:
        learns: normalize by the statistics of the batch, and keep them; else by those that were kept.
        axis_name: name of the axis of replicas that share statistics, or None.
        n_replica: replicas that it runs over.
    """

    learns: bool
    axis_name: Any = None
    n_replica: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` (..., C), each channel normalized."""
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        with jax.numpy_dtype_promotion("standard"):  # statistics are float32, whatever x is
            means, variances = mean.value, var.value
            if self.learns and not self.is_initializing():
                means = self._mean(x.astype(jnp.float32))
                variances = self._mean(jnp.square(x - _spread(means, x.shape)))
                n = self.n_replica * x.size // x.shape[-1]
                mean.value = _MOMENTUM * mean.value + (1 - _MOMENTUM) * means
                var.value = _MOMENTUM * var.value + (1 - _MOMENTUM) * variances * (n / max(n - 1, 1))
            factor = jax.lax.rsqrt(variances + 1e-5) * scale
            y = (x - _spread(means, x.shape)) * _spread(factor, x.shape) + _spread(bias, x.shape)
            return y.astype(jnp.result_type(x, scale))

    def _mean(self, x: jax.Array) -> jax.Array:
        mean = _sum(x) / (x.size // x.shape[-1])
        return mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)


class Affine(nn.Module):
    """A product with a kernel, and a bias.

    Attributes:
        shape: shape of the kernel, its channels last.
        product: of the input and the kernel.
    """

    shape: tuple[int, ...]
    product: Callable[[jax.Array, jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The product with `x`, plus the bias."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), self.shape)
        bias = self.param("bias", nn.initializers.zeros, self.shape[-1:])
        y = self.product(x, kernel)
        return y + _spread(bias, y.shape)


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
            learns=training,
            axis_name=axis if together else None,
            n_replica=self.sharding.n_shard if together else 1,
        )
        if not self.batch_normalization:
            norm = _Identity
        drop = partial(nn.Dropout, deterministic=not training)
        self.input_norm, self.output_norm, self.hidden_norm = norm(), norm(), norm()
        self.input_drop, self.hidden_drop = drop(self.input_dropout), drop(self.hidden_dropout)
        self.feature_map_drop = drop(self.feature_map_dropout, broadcast_dims=(1, 2))
        (height, width), kernel, n = self.picture, (self.kernel_height, self.kernel_width), self.output_channels
        self.convolution = Affine((*kernel, self.input_channels, n), _convolve)
        n_feature = n * (2 * height - kernel[0] + 1) * (width - kernel[1] + 1)
        self.linear = Affine((n_feature, self.embedding_size), partial(_product_channels_first, n_channel=n))

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


def _sum(x: jax.Array) -> jax.Array:
    """Sum (C,) of each channel of `x` (..., C), as a product.

    XLA on a CPU fuses a sum with all that makes its terms, and goes through that channel by channel.
    """
    rows = x.reshape(-1, x.shape[-1])
    return jnp.matmul(jnp.ones_like(rows, shape=(len(rows),)), rows, precision=_HIGHEST)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _spread(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers (C,) of channels, repeated to a shape (..., C). Its gradient is `_sum`."""
    return jnp.broadcast_to(x, shape)


_spread.defvjp(lambda x, shape: (_spread(x, shape), None), lambda shape, _, g: (_sum(g),))


def _convolve(picture: jax.Array, kernel: jax.Array) -> jax.Array:
    """(b, height, width, C) by (h, w, C, n), "valid", as one product: XLA's gradient takes 8 times as long on a CPU."""
    h, w, *channels = kernel.shape
    height, width = picture.shape[1] - h + 1, picture.shape[2] - w + 1
    b, c = len(picture), channels[0]
    patches = [jax.lax.slice(picture, (0, i, j, 0), (b, i + height, j + width, c)) for i in range(h) for j in range(w)]
    flat = jnp.concatenate(patches, axis=-1).reshape(-1, h * w * channels[0])
    product = jnp.matmul(flat, kernel.reshape(-1, channels[1]), precision=_HIGHEST)
    return product.reshape(-1, height, width, channels[1])


def _product_channels_first(x: jax.Array, kernel: jax.Array, n_channel: int) -> jax.Array:
    """x (b, n * C), channels last, by a kernel (C * n, D), channels first as PyTorch has them."""
    by_channel = kernel.reshape(n_channel, -1, kernel.shape[-1])
    return jnp.matmul(x, jnp.swapaxes(by_channel, 0, 1).reshape(kernel.shape), precision=_HIGHEST)


class _Identity(nn.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x
