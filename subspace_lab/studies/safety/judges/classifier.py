"""What a classifier of the user's own says of a reply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from subspace_lab.studies.safety.kinds import Answers, Judge, Verdict, register_judge

_ROWS = 16
_LENGTH = 512


@register_judge("classifier")
@dataclass(frozen=True, kw_only=True)
class ClassifierJudge(Judge):
    """The likeliest label by a model on this machine that classifies texts; the score is its probability.

    Attributes:
        model: A directory as transformers saves it, with weights in safetensors, a head and a tokenizer.
        refused: The label that means refused.
        fulfilled: The label that means fulfilled; any other means neither.
        reads: What it classifies: prompt and reply as a ``pair``, or the ``reply`` alone.
    """

    model: Path
    refused: str
    fulfilled: str
    reads: Literal["pair", "reply"] = "pair"

    def judge(self, answers: Answers) -> list[Verdict]:
        """See `Judge.judge`."""
        import torch

        from subspace_lab.training.pretrained import pretrained_tokenizer

        model, labels = self._loaded()
        tokenizer = pretrained_tokenizer(str(self.model.expanduser()))
        length = min(_LENGTH, getattr(model.config, "max_position_embeddings", _LENGTH))
        found: list[Verdict] = []
        texts = [(asked.row.prompt, reply) for asked, reply in zip(answers.asked, answers.replies, strict=True)]
        for start in range(0, len(texts), _ROWS):
            of = [*zip(*texts[start : start + _ROWS], strict=True)]
            parts = of if self.reads == "pair" else of[1:]
            batch = tokenizer(*map(list, parts), padding=True, truncation=True, max_length=length, return_tensors="pt")
            with torch.no_grad():
                chances = model(**batch).logits.softmax(-1)
            found += [self._verdict(labels[int(row.argmax())], float(row.max())) for row in chances]
        return found

    def _verdict(self, label: str, chance: float) -> Verdict:
        if label == self.refused:
            return Verdict("refused", chance)
        return Verdict("fulfilled" if label == self.fulfilled else "neither", chance)

    def _loaded(self) -> tuple[Any, dict[int, str]]:
        from transformers import AutoModelForSequenceClassification

        from subspace_lab._text import first_line

        path = self.model.expanduser()
        if not path.is_dir():
            raise ValueError(f"the judge classifier finds no directory {path}; give one with a model that classifies")
        how = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        try:
            model, found = AutoModelForSequenceClassification.from_pretrained(str(path), **how)
        except Exception as error:  # damaged files raise errors of any kind
            raise ValueError(f"the judge classifier cannot load {path}: {first_line(error)}") from error
        if found["missing_keys"]:
            raise ValueError(
                f"the model {path} has no trained head that classifies; give the judge classifier one that has"
            )
        labels: dict[int, str] = model.config.id2label
        for label in (self.refused, self.fulfilled):
            if label not in labels.values():
                known = ", ".join(labels.values())
                raise ValueError(
                    f"the model {path} has no label {label!r}, which the judge classifier needs; it has {known}"
                )
        return model.eval(), labels
