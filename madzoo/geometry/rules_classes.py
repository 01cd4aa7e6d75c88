"""The symmetries inside single layers of torch.nn and timm, by class: attention and recurrent layers."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from madzoo.gauges import Slices, basis
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["class_symmetries"]


def class_symmetries(module: nn.Module) -> list[Symmetry]:
    """Returns what is known of a module's own class, names relative to it; timm's go by their class names."""
    classes = {f"{cls.__module__.split('.')[0]}.{cls.__name__}" for cls in type(module).__mro__}
    return [symmetry for kind, rule in RULES.items() if kind in classes for symmetry in rule(module)]


def _fused_attention(
    *, heads: int, width: int, qkv: str, out: str, qkv_bias: bool, out_bias: bool, qk: bool = True
) -> Iterator[Symmetry]:
    """Yields what softmax attention over rows q, k, v of one projection has.

    Args:
        heads: of ``width // heads`` channels each.
        width: channels of each of q, k and v.
        qkv, out: the projections, ``.weight`` and ``.bias`` or ``_weight`` and ``_bias`` to be added by the caller.
        qkv_bias, out_bias: whether they have biases.
        qk: False where queries and keys are normalised.
    """
    inner, outer = f"{qkv}weight", f"{out}weight"
    size = width // heads
    rows = [inner] + [f"{qkv}bias"] * qkv_bias
    for head in range(heads):
        q, k, v = (Slices(start=part * width + head * size) for part in range(3))
        if qk:
            yield basis(
                "attention.query_key_basis",
                size,
                forward=dict.fromkeys(rows, q),
                backward=dict.fromkeys(rows, k),
            )
        columns = Slices(1, start=head * size)
        yield basis("attention.value_basis", size, forward=dict.fromkeys(rows, v), backward={outer: columns})
    if qkv_bias and qk:
        yield from_terms("attention.key_bias", width, lambda p: [_unit_term(f"{qkv}bias", width, width)])
    if qkv_bias and out_bias:
        yield _value_bias(f"{qkv}bias", outer, f"{out}bias", width)


def _value_bias(bias: str, weight: str, out_bias: str, width: int) -> Symmetry:
    """The weights of attention sum to one: a shift of all values is a shift of the output."""

    def terms(params: Parameters) -> Iterator[Term]:
        outputs = params[weight].shape[0]
        yield _unit_term(bias, width, 2 * width)
        yield Term(
            parameter=out_bias,
            axis=0,
            rows=torch.arange(outputs).repeat(width),
            coefficients=torch.arange(width).repeat_interleave(outputs),
            source=params[weight].T.flatten(),
            source_rows=torch.arange(width * outputs),
            weights=-torch.ones(width * outputs, dtype=torch.float64),
        )

    return from_terms("attention.value_bias", width, terms)


def _unit_term(name: str, count: int, start: int, sign: float = 1.0) -> Term:
    """Generator i adds ``sign`` to element ``start + i``."""
    every = torch.arange(count)
    return Term(
        parameter=name,
        axis=0,
        rows=start + every,
        coefficients=every,
        source=torch.ones(1, dtype=torch.float64),
        source_rows=torch.zeros_like(every),
        weights=torch.full((count,), sign, dtype=torch.float64),
    )


def _multihead(module: nn.Module) -> Iterator[Symmetry]:
    assert isinstance(module, nn.MultiheadAttention)
    plain = module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn
    if plain:
        yield from _fused_attention(
            heads=module.num_heads,
            width=module.embed_dim,
            qkv="in_proj_",
            out="out_proj.",
            qkv_bias=module.in_proj_bias is not None,
            out_bias=module.out_proj.bias is not None,
        )


def _timm_attention(module: nn.Module) -> Iterator[Symmetry]:
    parts: list[nn.Module | None] = [
        getattr(module, name, None) for name in ("qkv", "proj", "q_norm", "k_norm", "norm")
    ]
    qkv, proj, q_norm, k_norm, norm = parts
    if not (isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear)):
        return
    if not isinstance(norm or nn.Identity(), nn.Identity) or qkv.out_features != 3 * proj.in_features:
        return
    yield from _fused_attention(
        heads=int(module.num_heads),  # type: ignore[arg-type]
        width=proj.in_features,
        qkv="qkv.",
        out="proj.",
        qkv_bias=qkv.bias is not None,
        out_bias=proj.bias is not None,
        qk=isinstance(q_norm, nn.Identity) and isinstance(k_norm, nn.Identity),
    )


# How many of the gates' biases enter only as a sum, in units of the hidden size: the candidate of a GRU keeps both.
ADDED_BIASES = {nn.RNN: 1, nn.GRU: 2, nn.LSTM: 4}


def _recurrent(module: nn.Module) -> Iterator[Symmetry]:
    assert isinstance(module, nn.RNNBase)
    gates = next(count for cls, count in ADDED_BIASES.items() if isinstance(module, cls))
    for layer in range(module.num_layers if module.bias else 0):
        for direction in ("", "_reverse")[: 2 if module.bidirectional else 1]:
            first, second = f"bias_ih_l{layer}{direction}", f"bias_hh_l{layer}{direction}"
            yield _sum_of_biases(first, second, gates * module.hidden_size)


def _sum_of_biases(first: str, second: str, count: int) -> Symmetry:
    def terms(params: Parameters) -> Iterator[Term]:
        yield _unit_term(first, count, 0)
        yield _unit_term(second, count, 0, -1.0)

    return from_terms("recurrent.bias", count, terms)


RULES: dict[str, Callable[[nn.Module], Iterator[Symmetry]]] = {
    "torch.MultiheadAttention": _multihead,
    "torch.RNNBase": _recurrent,
    "timm.Attention": _timm_attention,
}
