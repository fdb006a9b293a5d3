"""Text: a small BERT with a tokenizer of its own, or any encoder that Hugging Face knows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from crystalign.encoders.encoder import Files
from crystalign.encoders.mlp import mlp
from crystalign.encoders.published import NETWORK, TOKENIZER, Published, published_description, read_options
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs
from crystalign.modalities.text import decode

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = r"[A-Z][a-z]*|[a-z]+|\d+|[^\w\s]"
"""Chemistry is case-sensitive and written without spaces: `Fe2O3` is Fe, 2, O, 3 and `CoO` is not `COO`."""


class Bert(Published):
    """BERT (Devlin et al., NAACL 2019, arXiv:1810.04805) over a description.

    Without `pretrained`, a small network is made on the spot and its WordPiece tokenizer is trained
    on the captions (`prepare`), so nothing is downloaded. With it, any encoder of the Hugging Face
    hub or a local directory is used, in its published weights, frozen or not; code that comes with
    such a model is never run. Tokenizer and network description travel in the model directory.
    """

    class Settings(Published.Settings):
        """Which network, and its size where it is made on the spot."""

        pooling: Literal["cls", "mean", "attention"] = "mean"
        """The text's vector: its first token's, the mean over tokens, or their mean with learned weights."""
        head: tuple[int, ...] = ()
        """Widths of the layers of an MLP after it; none leaves the vector as it is."""
        max_tokens: int = Field(default=48, ge=4)
        """Longer texts are cut."""
        vocabulary: int = Field(default=3000, ge=64)
        """Largest size of the trained tokenizer."""
        hidden: int = Field(default=96, ge=8)
        """Channels of a token."""
        layers: int = Field(default=2, ge=1)
        """Transformer layers."""
        heads: int = Field(default=4, ge=1)
        """Attention heads; they divide `hidden`."""
        expansion: int = Field(default=2, ge=1)
        """Channels of the inner layer, in units of `hidden`."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """Share of activations dropped in training."""

    settings: Settings

    def __init__(self, settings: Settings, files: Files | None = None, network: nn.Module | None = None) -> None:
        missing = {TOKENIZER, NETWORK} - set(files or {})
        if missing or files is None:
            message = f"the text encoder lacks {', '.join(sorted(missing))}: make them with `crystalign.model.prepare`"
            raise ConfigError(message)
        super().__init__(settings, files, network)
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_str(files[TOKENIZER].decode())
        if getattr(self.network, "pooler", None) is not None:
            self.network.pooler = None  # a head for another task, whose weights would never be trained
        channels = int(self.network.config.hidden_size)
        self.pooling = TokenMean(channels) if settings.pooling == "attention" else None
        self.head = mlp(channels, settings.head)
        self.width = (channels, *settings.head)[-1]

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `utf8` and `offsets` of n texts."""
        return self.read(decode(inputs), inputs["utf8"].device)

    def read(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """(n, width) from n texts."""
        encoded = self._tokenizer.encode_batch(list(texts))
        tokens = torch.tensor([e.ids for e in encoded], device=device)  # (n, T)
        mask = torch.tensor([e.attention_mask for e in encoded], device=device)  # (n, T)
        states: Tensor = self.network(input_ids=tokens, attention_mask=mask).last_hidden_state  # (n, T, C)
        vector: Tensor = self.head(self._pool(states, mask))  # (n, width)
        return vector

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """(n, T, C) → (n, C)."""
        if self.settings.pooling == "cls":
            return states[:, 0]
        if self.pooling is not None:
            pooled: Tensor = self.pooling(states, mask)
            return pooled
        share = mask.to(states.dtype) / mask.sum(dim=1, keepdim=True)  # (n, T)
        return (states * share[..., None]).sum(dim=1)

    @classmethod
    def prepare(cls, settings: Any, values: Sequence[Any]) -> Files:
        """Train a tokenizer on the captions, or read a published encoder's.

        Raises:
            ConfigError: no captions to train on, or a published encoder that cannot be read.
        """
        if settings.pretrained is not None:
            return _published_files(settings)
        texts = [str(getattr(value, "description", value)) for value in values]
        if not texts:
            raise ConfigError("the text encoder's tokenizer is trained on captions, and the training rows have none")
        tokenizer = train_tokenizer(texts, vocabulary=settings.vocabulary, max_tokens=settings.max_tokens)
        return small_network_files(settings, tokenizer)


class TokenMean(nn.Module):
    """Σ_t w_t h_t with w = softmax_t(a · h_t) over the tokens of a text; a starts at zero, so w at the plain mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(channels))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(n, T, C) states and (n, T) mask → (n, C)."""
        scores = (states @ self.score).masked_fill(mask == 0, -torch.inf)  # (n, T)
        return (states * scores.softmax(dim=1)[..., None]).sum(dim=1)


def small_network_files(settings: Any, tokenizer: Any) -> Files:
    """What a network that is made on the spot needs besides its settings."""
    description = {
        "model_type": "bert",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": settings.hidden,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "intermediate_size": settings.expansion * settings.hidden,
        "max_position_embeddings": settings.max_tokens,
        "hidden_dropout_prob": settings.dropout,
        "attention_probs_dropout_prob": settings.dropout,
        "pad_token_id": 0,
    }
    return {TOKENIZER: tokenizer.to_str().encode(), NETWORK: json.dumps(description, indent=2).encode()}


def train_tokenizer(texts: Sequence[str], *, vocabulary: int, max_tokens: int) -> Any:
    """A WordPiece tokenizer (Wu et al., arXiv:1609.08144) that keeps case and splits formulas into elements.

    Its vocabulary is the letters of the texts and their most frequent pieces; a piece that is not in it
    is spelled. The library's own trainer breaks ties at random, and a seed would not decide the model.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    normalizer = normalizers.NFKC()  # subscripts become digits
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(PIECES), behavior="isolated")]
    )
    pieces: Counter[str] = Counter()
    for text in texts:
        pieces.update(piece for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters: Counter[str] = Counter()
    for piece, count in pieces.items():
        letters.update(dict.fromkeys(piece, count))
    alphabet = _by_frequency(letters)[: vocabulary // 4]
    ordered = dict.fromkeys([*SPECIAL, *alphabet, *(f"##{c}" for c in alphabet), *_by_frequency(pieces)])
    return _word_piece(list(ordered)[:vocabulary], normalizer, splitter, max_tokens)


def word_tokenizer(words: Sequence[str], *, max_tokens: int) -> Any:
    """A tokenizer of these words, which are separated by spaces; a word that is not among them is cut into those
    that are, from the left.
    """
    from tokenizers import normalizers, pre_tokenizers

    continued = [f"##{word}" for word in words if len(word) == 1]
    vocabulary = list(dict.fromkeys([*SPECIAL, *words, *continued]))
    return _word_piece(vocabulary, normalizers.NFKC(), pre_tokenizers.WhitespaceSplit(), max_tokens)


def _word_piece(vocabulary: Sequence[str], normalizer: Any, splitter: Any, max_tokens: int) -> Any:
    from tokenizers import Tokenizer, models, processors

    numbered = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(vocab=numbered, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    special = [(name, numbered[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=numbered["[PAD]"], pad_token="[PAD]")  # noqa: S106
    return tokenizer


def _by_frequency(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda token: (-counts[token], token))


def published_tokenizer(source: str) -> tuple[Any, int]:
    """The fast tokenizer of a published encoder, and how many tokens the encoder reads.

    Raises:
        OSError: there is none.
        ValueError: it is of no kind that is known, or not a fast one.
    """
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(source, use_fast=True, **read_options(source))
    positions = published_description(source).get("max_position_embeddings") or fast.model_max_length
    if not hasattr(fast, "backend_tokenizer"):
        message = f"{type(fast).__name__} is no fast tokenizer"
        raise ValueError(message)
    return fast, min(int(positions), int(fast.model_max_length))


def _published_files(settings: Any) -> Files:
    source = settings.pretrained
    try:
        fast, most = published_tokenizer(source)
        description = published_description(source)
    except (OSError, ValueError) as error:
        message = f"no published text encoder {source!r} with a fast tokenizer: {error}"
        raise ConfigError(message) from error
    if settings.max_tokens > most:
        raise ConfigError(f"max_tokens {settings.max_tokens}, but {source!r} reads {most}: lower it")
    tokenizer = fast.backend_tokenizer
    tokenizer.enable_truncation(settings.max_tokens)
    tokenizer.enable_padding(pad_id=fast.pad_token_id or 0, pad_token=fast.pad_token or "[PAD]")
    network = json.dumps(description, indent=2, default=str)
    return {TOKENIZER: tokenizer.to_str().encode(), NETWORK: network.encode()}
