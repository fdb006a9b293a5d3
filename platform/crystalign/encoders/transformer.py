"""Pre-norm transformer layer shared by several encoders."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class TransformerLayer(nn.Module):
    """x ← x + Attention(LN x); x ← x + MLP(LN x) (Xiong et al., ICML 2020, arXiv:2002.04745).

    Args:
        hidden: channels C of a token.
        heads: attention heads.
        expansion: channels of the MLP's inner layer, in units of `hidden`.
        dropout: dropout probability in training.
        head_width: channels of a head; `hidden` / `heads` without it.
        bias: whether the query, key and value maps have a bias.
        activation: activation function of the MLP.
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        expansion: int = 2,
        dropout: float = 0.0,
        *,
        head_width: int | None = None,
        bias: bool = True,
        activation: Literal["gelu", "relu"] = "gelu",
    ) -> None:
        super().__init__()
        assert head_width or hidden % heads == 0, f"{heads} heads do not divide {hidden} channels"
        inner = heads * (head_width or hidden // heads)
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * inner, bias=bias)
        self.merge = nn.Linear(inner, hidden)
        self.norm_mlp = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, expansion * hidden),
            nn.GELU() if activation == "gelu" else nn.ReLU(),
            nn.Linear(expansion * hidden, hidden),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, T, C) → (n, T, C); `mask` (n, T) bool, True where a token may be attended to."""
        n, length, _ = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(n, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (n, heads, T, width of a head) each
        allowed = None if mask is None else mask[:, None, None, :]  # (n, 1, 1, T)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        x = x + self.merge(attended.transpose(1, 2).reshape(n, length, -1))  # (n, T, C)
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out
