"""Encode texts with the packaged all-MiniLM-L6-v2, by torch and its tokeniser alone.

In: the folder of the model and texts. Out: the unit vectors that sentence-transformers computes with it, without its
imports and those of transformers, which take longer than encoding a small shop. The network is BERT (Devlin et al.
2019, arXiv 1810.04805); a text's vector is the mean of its tokens' (Reimers and Gurevych 2019, arXiv 1908.10084).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


MAX_TOKENS = 256
"""What sentence-transformers reads of a text with this model, first and last marks included."""


class MiniLM:
    """The network and its tokeniser, which reads `max_tokens` of a text."""

    def __init__(self, folder: Path, max_tokens: int, device: str) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        config = json.loads((folder / "config.json").read_text())
        self.weights = load_file(folder / "model.safetensors", device=device)
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon, self.device = config["layer_norm_eps"], device
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(min(max_tokens, MAX_TOKENS))
        self.tokenizer.enable_padding(pad_id=config["pad_token_id"])

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return (n_texts, dim) vectors of length 1."""
        encoded = self.tokenizer.encode_batch([text.strip() for text in texts])
        tokens = torch.tensor([one.ids for one in encoded], device=self.device)
        real = torch.tensor([one.attention_mask for one in encoded], device=self.device)
        vectors = self._network(tokens, real.bool())
        mask = real.unsqueeze(-1).to(vectors.dtype)
        mean = (vectors * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return functional.normalize(functional.normalize(mean, dim=1), dim=1)  # twice: equal to the last bit

    def _network(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Return (n_texts, n_tokens, dim); `real` (n_texts, n_tokens) tells tokens from padding."""
        vectors = self.weights["embeddings.word_embeddings.weight"][tokens]
        vectors = vectors + self.weights["embeddings.token_type_embeddings.weight"][0]
        vectors = vectors + self.weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        vectors = self._norm(vectors, "embeddings")
        mask = None if bool(real.all()) else real[:, None, None, :].expand(-1, -1, tokens.shape[1], -1)
        for layer in range(self.layers):
            name = f"encoder.layer.{layer}"
            attended = self._attention(vectors, mask, f"{name}.attention.self")
            attended = self._linear(attended, f"{name}.attention.output.dense")
            vectors = self._norm(attended + vectors, f"{name}.attention.output")
            wide = functional.gelu(self._linear(vectors, f"{name}.intermediate.dense"))
            vectors = self._norm(self._linear(wide, f"{name}.output.dense") + vectors, f"{name}.output")
        return vectors

    def _attention(self, vectors: Tensor, mask: Tensor | None, name: str) -> Tensor:
        shape = (*vectors.shape[:2], self.heads, -1)
        query, key, value = (
            self._linear(vectors, f"{name}.{part}").view(shape).transpose(1, 2) for part in ("query", "key", "value")
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).reshape(vectors.shape)

    def _linear(self, vectors: Tensor, name: str) -> Tensor:
        return functional.linear(vectors, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, vectors: Tensor, name: str) -> Tensor:
        weight, bias = (self.weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return functional.layer_norm(vectors, (vectors.shape[-1],), weight, bias, self.epsilon)
