"""Attention of known local dimension: each head may name its d_head coordinates as it likes, twice."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.geometry.case import Case

__all__ = ["ATTENTION", "Attention", "VisionTransformer"]


class Attention(nn.Module):
    """Attention over tokens as one writes it by hand; without softmax it is linear in each of q, k and v."""

    def __init__(self, d: int, heads: int, *, softmax: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.heads, self.softmax = heads, softmax
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=bias) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        weights = scores.softmax(-1) if self.softmax else scores
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class FusedAttention(Attention):
    """The same by torch's function, with views, causal."""

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, d = x.shape
        q, k, v = (m(x).view(n, tokens, self.heads, -1).permute(0, 2, 1, 3) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(n, tokens, d))


class OneMap(nn.Module):
    """Queries, keys and values from one map, cut apart."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.o = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class OneHead(nn.Module):
    """A single head without any reshape, its scores masked."""

    def __init__(self, d: int, size: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(d, size), nn.Linear(d, size), nn.Linear(d, size), nn.Linear(size, d)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.matmul(self.q(x) * 0.7, self.k(x).transpose(-2, -1))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.o(torch.softmax(scores.masked_fill(later, -torch.inf), dim=-1) @ self.v(x))


class Block(nn.Module):
    """A pre-norm transformer block with GELU."""

    def __init__(self, d: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(d, eps=0.0), nn.LayerNorm(d, eps=0.0)
        self.attention = Attention(d, heads, bias=True)
        self.mlp = nn.Sequential(nn.Linear(d, hidden), nn.GELU(), nn.Linear(hidden, d))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class VisionTransformer(nn.Module):
    """Patches, learned positions, one block, norm, mean over tokens, head; no eps in the norms."""

    def __init__(self, d: int = 4, tokens: int = 4, **sizes: Any) -> None:
        super().__init__()
        self.patch, self.positions = nn.Linear(3, d), nn.Parameter(0.3 * torch.randn(tokens, d))
        self.block = Block(d, **sizes)
        self.norm, self.head = nn.LayerNorm(d, eps=0.0), nn.Linear(d, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.patch(x) + self.positions)).mean(1))


ATTENTION = {
    # 2 h d_head^2
    "attention_d6_h2": Case(lambda: Attention(6, 2), (8, 5, 6), 240, 144, 108),
    # and a scale per head between the two
    "linear_attention_d4_h2": Case(lambda: Attention(4, 2, softmax=False), (6, 5, 4), 120, 64, 46),
    # and, of biases, d of the keys and d of the values
    "attention_bias_d4_h2": Case(lambda: Attention(4, 2, bias=True), (8, 5, 4), 160, 80, 56),
    "attention_function_d4_h2": Case(lambda: FusedAttention(4, 2, bias=True), (8, 5, 4), 160, 80, 56),
    "attention_one_map_d4_h2": Case(lambda: OneMap(4, 2), (8, 5, 4), 160, 80, 56),
    "attention_one_head": Case(lambda: OneHead(4, 3), (8, 5, 4), 160, 61, 37),
    # gains and shifts 3 * 2 d; zero sums 3 d + 5 + 2; ones 3 + 4 + 5 + 6 (that of the patch bias is one of the
    # positions'); patch bias d; attention 16 + 2 d; rotations 3; scale 1: 93
    "vit_1layer_eps0": Case(lambda: VisionTransformer(heads=2, hidden=5), (110, 4, 3), 220, 195, 102),
}
