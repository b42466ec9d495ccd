"""How a prompt and its response become tokens: one object for training and for evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from subspace_lab._text import first_line
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.pretrained import pretrained_tokenizer
from subspace_lab.training.sources import Source
from subspace_lab.training.tasks.rows import Row, Split
from subspace_lab.training.tokens import END_OF_TEXT, tokenizer_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Template:
    """The chat template of a pretrained tokenizer; without one, prompt and response with a space between.

    Attributes:
        tokenizer: Turns text into token numbers.
        end: The token that ends a response.
        start: Tokens before a prompt that has no chat template: the beginning mark of models that have one.
        chat: The tokenizer that has the chat template, None without one.
        name: Of the tokenizer, for messages.
    """

    tokenizer: Tokenizer
    end: int
    start: tuple[int, ...] = ()
    chat: PreTrainedTokenizerBase | None = None
    name: str = "the tokenizer"

    @classmethod
    def of(cls, config: TrainConfig, split: Split) -> Self:
        """The template of a configuration; for a preset with a byte-level BPE that is trained on the rows.

        Args:
            config: A resolved configuration.
            split: The rows.

        Returns:
            The template.

        Raises:
            ValueError: If the tokenizer cannot be loaded or has no end mark, or the rows are messages and it has no
                chat template.
        """
        name = config.tokenizer or config.model
        source = Source(_identity(split), lambda: map(_text, split.train))
        loaded = None if name is None or name.endswith(".json") else pretrained_tokenizer(name)
        if loaded is None:
            tokenizer, end = tokenizer_of(config, source)
        else:
            tokenizer, end = loaded.backend_tokenizer, loaded.eos_token_id
        name = name or "the tokenizer that is trained on the rows"
        if end is None:
            raise ValueError(f"{name} has no end mark such as {END_OF_TEXT}, which ends a response; name another one")
        chat = loaded if loaded is not None and loaded.chat_template else None
        if chat is None and any(row.turns for row in (*split.train, *split.held_out)):
            raise ValueError(
                f"{split.origin} has messages, and {name} has no chat template; give columns with prompt and response, "
                "or a model that has one"
            )
        return cls(tokenizer, end, () if loaded is None else _start(loaded), chat, name)

    def tokens(self, row: Row) -> tuple[list[int], list[int]]:
        """The tokens of a prompt, with all that stands before a reply, and of its response, with the end mark.

        Args:
            row: A row.

        Returns:
            Token numbers of both; their concatenation is what is trained on.

        Raises:
            ValueError: If the chat template writes a response otherwise than it asks for one.
        """
        if self.chat is None:
            return [*self.start, *self._encoded(row.prompt)], [*self._encoded(f" {row.response}"), self.end]
        turns = [{"role": role, "content": text} for role, text in row.turns or (("user", row.prompt),)]
        prompt = self._chat(turns, asks=True)
        whole = self._chat([*turns, {"role": "assistant", "content": row.response}], asks=False)
        if not whole.startswith(prompt):
            raise ValueError(
                f"the chat template of {self.name} writes a response otherwise than it asks for one; give a tokenizer "
                "without a chat template"
            )
        response = self._encoded(whole[len(prompt) :])
        length = response.index(self.end) if self.end in response else len(response)
        return self._encoded(prompt), [*response[:length], self.end]

    def text(self, tokens: Sequence[int]) -> str:
        """A reply as text, up to its end mark.

        Args:
            tokens: Token numbers that the model wrote.

        Returns:
            The text without marks and without white space around it.
        """
        kept = itertools.takewhile(lambda token: token != self.end, tokens)
        text: str = self.tokenizer.decode([*kept], skip_special_tokens=True)
        return text.strip()

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _chat(self, turns: Sequence[dict[str, str]], *, asks: bool) -> str:
        assert self.chat is not None
        try:
            text = self.chat.apply_chat_template([*turns], tokenize=False, add_generation_prompt=asks)
        except Exception as error:  # a template may raise anything
            raise ValueError(f"the chat template of {self.name} refuses a row: {first_line(error)}") from error
        return str(text)


def _start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The beginning mark, where the tokenizer sets it itself."""
    mark = tokenizer.bos_token_id
    return (mark,) if mark is not None and tokenizer("a").input_ids[:1] == [mark] else ()


def _identity(split: Split) -> str:
    return "\0".join(map(_text, split.train))


def _text(row: Row) -> str:
    return f"{row.prompt} {row.response}"
