"""Text encoders: a small BERT with its own tokenizer, or any encoder from Hugging Face."""

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
from crystalign.encoders.number_tokens import NUMBER, NumberEmbedding, split_numbers
from crystalign.encoders.published import NETWORK, TOKENIZER, Published, published_description, read_options
from crystalign.errors import ConfigError
from crystalign.modalities import Inputs
from crystalign.modalities.text import decode

ROWS_TOGETHER = 64
"""Texts that pass the network together."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = r"[A-Z][a-z]*|[a-z]+|\d+|[^\w\s]"
"""Chemistry is case-sensitive and written without spaces: `Fe2O3` is Fe, 2, O, 3 and `CoO` is not `COO`."""


class Bert(Published):
    """BERT (Devlin et al., NAACL 2019, arXiv:1810.04805) over a description.

    Without `pretrained`, a small network with fresh weights is made and its WordPiece tokenizer is trained on the
    captions (`prepare`); nothing is downloaded. With `pretrained`, an encoder from the Hugging Face hub or a local
    directory is used with its published weights, frozen or trainable; code that comes with it is never run. The
    tokenizer and the network's configuration are saved in the model directory.
    """

    class Settings(Published.Settings):
        """Choice of the network, and its size if it is trained from scratch."""

        pooling: Literal["cls", "mean", "attention"] = "mean"
        """Pooling of token vectors: the first token, the mean, or a mean with learned weights."""
        head: tuple[int, ...] = ()
        """Widths of the MLP layers after pooling; empty for no MLP."""
        max_tokens: int = Field(default=48, ge=4)
        """Maximum length of a text in tokens; longer texts are cut off there."""
        vocabulary: int = Field(default=3000, ge=64)
        """Largest size of the trained tokenizer."""
        hidden: int = Field(default=96, ge=8)
        """Channels per token."""
        layers: int = Field(default=2, ge=1)
        """Transformer layers."""
        heads: int = Field(default=4, ge=1)
        """Attention heads; `hidden` must be a multiple."""
        expansion: int = Field(default=2, ge=1)
        """Channels of the inner MLP layer, in units of `hidden`."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """Dropout probability in training."""
        numbers: Literal["digits", "values"] = "digits"
        """Measured numbers as pieces of digits, or as one token whose embedding follows from the value; the latter is
        for networks that are trained from scratch."""

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
            self.network.pooler = None  # the pooler is a head for another task; its weights would never be trained
        channels = int(self.network.config.hidden_size)
        number = self._tokenizer.token_to_id(NUMBER) if settings.numbers == "values" else None
        self.numbers = None if number is None else NumberEmbedding(channels, number)
        self.pooling = TokenMean(channels) if settings.pooling == "attention" else None
        self.head = mlp(channels, settings.head)
        self.width = (channels, *settings.head)[-1]

    def forward(self, inputs: Inputs) -> Tensor:
        """Encode n texts given as `utf8` and `offsets`; returns (n, width)."""
        return self.read(decode(inputs), inputs["utf8"].device)

    def read(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Encode n texts; returns (n, width). Texts of similar length pass the network together, to save padding."""
        split = [split_numbers(text) for text in texts] if self.numbers is not None else [(text, []) for text in texts]
        encoded = self._tokenizer.encode_batch([text for text, _ in split])
        lengths = torch.tensor([sum(e.attention_mask) for e in encoded])
        order = lengths.argsort(stable=True)
        parts = [
            self._read_tokens(
                torch.tensor([encoded[row].ids for row in rows], device=device)[:, : int(lengths[rows[-1]])],
                lengths[rows].to(device),
                [split[row][1] for row in rows],
            )
            for rows in (part.tolist() for part in torch.split(order, ROWS_TOGETHER))
        ]
        vectors: Tensor = torch.cat(parts)[order.argsort().to(device)]  # (n, width)
        return vectors

    def _read_tokens(self, tokens: Tensor, lengths: Tensor, numbers: Sequence[Sequence[float]]) -> Tensor:
        """(m, T) token ids, the number of tokens of each text, and the numbers in it → (m, width)."""
        mask = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()  # (m, T)
        if self.numbers is None:
            given = {"input_ids": tokens}
        else:
            embedded = self.network.get_input_embeddings()(tokens)  # (m, T, C)
            given = {"inputs_embeds": embedded + self.numbers(tokens, numbers)}
        states: Tensor = self.network(**given, attention_mask=mask).last_hidden_state  # (m, T, C)
        vector: Tensor = self.head(self._pool(states, mask))  # (m, width)
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
        """Train a tokenizer on the captions, or read that of a published encoder.

        Raises:
            ConfigError: there are no captions to train on, or the published encoder cannot be read.
        """
        if settings.pretrained is not None:
            if settings.numbers == "values":
                raise ConfigError("a published encoder has no token for numbers; leave out numbers='values'")
            return _published_files(settings)
        texts = [str(getattr(value, "description", value)) for value in values]
        if not texts:
            raise ConfigError("the text encoder's tokenizer is trained on captions, and the training rows have none")
        special = (NUMBER,) if settings.numbers == "values" else ()
        texts = [split_numbers(text)[0].replace(NUMBER, " ") for text in texts] if special else texts
        tokenizer = train_tokenizer(
            texts, vocabulary=settings.vocabulary, max_tokens=settings.max_tokens, special=special
        )
        return small_network_files(settings, tokenizer)


class TokenMean(nn.Module):
    """Learned pooling Σ_t w_t h_t, w = softmax_t(a · h_t); a = 0 at the start, which is the plain mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(channels))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(n, T, C) states and (n, T) mask → (n, C)."""
        scores = (states @ self.score).masked_fill(mask == 0, -torch.inf)  # (n, T)
        return (states * scores.softmax(dim=1)[..., None]).sum(dim=1)


def small_network_files(settings: Any, tokenizer: Any) -> Files:
    """Files of a network that is trained from scratch."""
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


def train_tokenizer(texts: Sequence[str], *, vocabulary: int, max_tokens: int, special: Sequence[str] = ()) -> Any:
    """Train a WordPiece tokenizer (Wu et al., arXiv:1609.08144) that keeps case and splits formulas into elements.

    The vocabulary holds the letters of the texts and their most frequent pieces; other words are split into letters.
    We do not use the library's trainer because it breaks ties at random, independent of any seed.
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
    ordered = dict.fromkeys([*SPECIAL, *special, *alphabet, *(f"##{c}" for c in alphabet), *_by_frequency(pieces)])
    tokenizer = _word_piece(list(ordered)[:vocabulary], normalizer, splitter, max_tokens)
    tokenizer.add_special_tokens(list(special))  # matched before the text is split
    return tokenizer


def word_tokenizer(words: Sequence[str], *, max_tokens: int) -> Any:
    """Make a tokenizer for space-separated words; an unknown word is split into known ones, from the left."""
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
    """Return the fast tokenizer of a published encoder and the encoder's maximum number of tokens.

    Raises:
        OSError: there is no such encoder.
        ValueError: the tokenizer is of an unknown kind or not a fast one.
    """
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(source, use_fast=True, **read_options(source))
    positions = published_description(source).get("max_position_embeddings") or fast.model_max_length
    if not hasattr(fast, "backend_tokenizer"):
        message = f"{type(fast).__name__} is not a fast tokenizer"
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
