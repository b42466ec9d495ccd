"""From text to token numbers: the tokenizer of a run, and its data as one array of tokens."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab._paths import local_path
from subspace_lab.training.cache import cache_key, cached_array, cached_text
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.pretrained import pretrained_tokenizer
from subspace_lab.training.sources import Source, find_source

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
_PIECE = 1 << 20  # characters that are encoded at once
_TRAINING_TEXT = 32 << 20  # characters that a BPE is trained on


@dataclass(frozen=True)
class TokenData:
    """The data of a run.

    Attributes:
        tokens: Token numbers (num_tokens,), documents one after the other, each with its end mark.
        hash: SHA-256 of the tokens.
    """

    tokens: np.ndarray
    hash: str


def load_tokens(config: TrainConfig, *, streamed: bool | None = None) -> TokenData:
    """The tokens that a configuration trains on, from the cache where they were made before.

    Args:
        config: A resolved configuration.
        streamed: Whether only as many tokens are taken as the steps need; None for a dataset of the hub only.

    Returns:
        The tokens. Of a streamed dataset as many as the steps need once, of anything else all.

    Raises:
        ValueError: If the data cannot be read, are not text or hold none.
    """
    assert config.data
    source = find_source(config.data)
    tokenizer, end = tokenizer_of(config, source)
    streamed = config.data.startswith("hf:") if streamed is None else streamed
    enough = _needed(config) if streamed else None
    key = cache_key("tokens", source.identity, tokenizer.to_str(), str(end), str(enough))

    def make() -> np.ndarray:
        print(f"preparing the tokens of data={config.data!r}; the next run finds them", file=sys.stderr, flush=True)
        return _encode_all(source.documents(), tokenizer, end, enough)

    tokens = cached_array(f"tokens-{key}.npy", make)
    if not len(tokens):
        raise ValueError(f"data={config.data!r} holds no text; choose another file or dataset")
    return TokenData(tokens, _hash(tokens))


def _needed(config: TrainConfig) -> int:
    assert config.steps
    assert config.batch_size
    assert config.accumulation
    assert config.sequence_length
    sequences = config.steps * config.batch_size * config.accumulation
    return (sequences + sequences // 16 + 1) * config.sequence_length  # with what is held out


def tokenizer_of(config: TrainConfig, source: Source) -> tuple[Tokenizer, int | None]:
    """The tokenizer and the number of its end mark, None when it has none.

    Args:
        config: A resolved configuration.
        source: What a byte-level BPE is trained on where the configuration names neither a tokenizer nor a model.

    Returns:
        Tokenizer and number.

    Raises:
        ValueError: If there is none of that name.
    """
    from tokenizers import Tokenizer

    if config.tokenizer is None and config.model is None:
        name = f"tokenizer-{cache_key('bpe', source.identity, str(config.vocab_size))}.json"
        tokenizer = Tokenizer.from_str(cached_text(name, lambda: _train_bpe(source, config)))
        return tokenizer, tokenizer.token_to_id(END_OF_TEXT)
    if config.tokenizer is not None and config.tokenizer.endswith(".json"):
        path = local_path(config.tokenizer)
        if not path.is_file():
            raise ValueError(f"tokenizer={config.tokenizer!r} does not exist; leave it out to train one on the data")
        tokenizer = Tokenizer.from_file(str(path))
        return tokenizer, tokenizer.token_to_id(END_OF_TEXT)
    pretrained = pretrained_tokenizer(config.tokenizer or config.model or "")
    return pretrained.backend_tokenizer, pretrained.eos_token_id


def _train_bpe(source: Source, config: TrainConfig) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    assert config.vocab_size
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_at_most(source.documents(), _TRAINING_TEXT), trainer)
    text: str = tokenizer.to_str()
    return text


def _at_most(documents: Iterable[str], characters: int) -> Iterator[str]:
    for document in documents:
        if characters <= 0:
            return
        yield document[:characters]
        characters -= len(document)


def _encode_all(documents: Iterable[str], tokenizer: Tokenizer, end: int | None, enough: int | None) -> np.ndarray:
    dtype = np.uint16 if max(tokenizer.get_vocab_size(), end or 0) < 1 << 16 else np.uint32
    mark = [] if end is None else [end]
    parts, total = [np.empty(0, dtype)], 0
    for batch in _batches(itertools.chain.from_iterable(map(_pieces, documents))):
        encoded = tokenizer.encode_batch([piece for piece, _ in batch], add_special_tokens=False)
        for (_, is_last), encoding in zip(batch, encoded, strict=True):
            parts.append(np.array(encoding.ids + mark if is_last else encoding.ids, dtype))
            total += len(parts[-1])
        if enough is not None and total >= enough:
            break
    return np.concatenate(parts)[:enough]


def _pieces(document: str) -> Iterator[tuple[str, bool]]:
    """The document in pieces that end with a line where possible, and whether a piece is its last."""
    start = 0
    while len(document) - start > _PIECE:
        stop = document.rfind("\n", start, start + _PIECE) + 1 or start + _PIECE
        yield document[start:stop], False
        start = stop
    yield document[start:], True


def _batches(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch, characters = [], 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[0])
        if characters >= _PIECE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _hash(tokens: np.ndarray) -> str:
    return hashlib.sha256(f"{tokens.dtype.str} ".encode() + np.ascontiguousarray(tokens).data).hexdigest()
