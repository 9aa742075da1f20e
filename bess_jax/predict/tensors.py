"""Tensors of PyTorch as arrays in the order that the score functions have, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EPSILON = 1e-5
"""What Flax's batch normalization adds to a variance."""


class Norm(NamedTuple):
    """A batch normalization in evaluation: (x - mean) / sqrt(variance + epsilon) * scale + bias; all (C,)."""

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, layer: Mapping[str, Any], epsilon: float = _EPSILON) -> Norm:
        """That of the state of a layer of PyTorch."""
        mean, variance = to_array(layer["running_mean"]), to_array(layer["running_var"])
        ones = np.ones_like(mean)
        scale, bias = to_array(layer.get("weight", ones)), to_array(layer.get("bias", 0 * ones))
        return cls(mean, variance + np.float32(epsilon - _EPSILON), scale, bias)

    @classmethod
    def none(cls, n: int) -> Norm:
        """One that changes nothing."""
        ones = np.ones(n, np.float32)
        return cls(0 * ones, ones, ones * np.float32(np.sqrt(1 + _EPSILON)), 0 * ones)


def to_array(tensor: Any) -> NDArray[Any]:
    """Numbers of a tensor, float32 or complex64; arrays are taken as they are."""
    if hasattr(tensor, "detach"):
        host = tensor.detach().cpu()
        tensor = (host if host.is_complex() else host.float()).numpy()  # NumPy has no bfloat16
    array = np.asarray(tensor)
    return array.astype(np.complex64 if np.iscomplexobj(array) else np.float32)


def to_halves(array: NDArray[Any]) -> NDArray[np.float32]:
    """Complex rows (n, D) as [real half, imaginary half], (n, 2 D)."""
    return np.concatenate([array.real, array.imag], axis=-1).astype(np.float32)


def conve_network(
    convolution: Mapping[str, Any], linear: Mapping[str, Any], norms: Mapping[str, Norm]
) -> dict[str, dict[str, Any]]:
    """Collections of `ConvE` beside the relation table.

    Args:
        convolution: weight (out, in, height, width) and bias (out,).
        linear: weight (out, in) and bias (out,).
        norms: input_norm, output_norm and hidden_norm, or nothing where there is no normalization.
    """
    kernel, matrix = to_array(convolution["weight"]), to_array(linear["weight"])
    no_bias = np.zeros(len(kernel), np.float32)
    params: dict[str, Any] = {
        "convolution": {"kernel": kernel.transpose(2, 3, 1, 0), "bias": to_array(convolution.get("bias", no_bias))},
        "linear": {"kernel": matrix.T, "bias": to_array(linear["bias"])},
    }
    params |= {name: {"scale": norm.scale, "bias": norm.bias} for name, norm in norms.items()}
    statistics = {name: {"mean": norm.mean, "var": norm.variance} for name, norm in norms.items()}
    return {"params": params, **({"batch_stats": statistics} if statistics else {})}


def within(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries of a state whose names start so, without that start."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def names_by_id(ids: Mapping[str, int]) -> list[str]:
    """Names in the order of their ids, 0, 1, ..."""
    return sorted(ids, key=ids.__getitem__)
