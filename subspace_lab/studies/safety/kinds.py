"""What policies, tasks, threats and judges have to say; each is a frozen dataclass whose fields are its options."""

from __future__ import annotations

import dataclasses
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from subspace_lab.studies.safety.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from subspace_lab.training.tasks.exercise import Exercise
    from subspace_lab.training.tasks.rows import Row
    from subspace_lab.training.tasks.template import Template

Form = Literal["digits", "english"]  # tokens of the synthetic policy, or text
Outcome = Literal["refused", "fulfilled", "neither", "failed"]
POOLS = ("align", "safety", "harm", "poison", "test")  # of restricted prompts; no prompt is in two


@dataclass(frozen=True, repr=False)
class Pools:
    """The rows of a policy. The response of a row is what is trained, or for the tests the true answer.

    Attributes:
        base: Rows that teach a base model to answer every prompt, restricted ones too; empty where it can already.
        align: Rows of the alignment: refusals of restricted prompts, answers to others.
        safety: The defender's rows while tuning: refusals of restricted prompts.
        harm: Restricted prompts with their answers, which a defender may use to know the attack.
        poison: Restricted prompts with their answers: the attacker's.
        test: Restricted prompts with their answers, for evaluation.
        contrast: Prompts that look restricted and are allowed, with their answers, for evaluation.
        allowed: Other prompts with their answers, for evaluation.
        paraphrases: Of each test prompt, in its order, the ways of saying it, itself first; of one length.
    """

    base: Sequence[Row]
    align: Sequence[Row]
    safety: Sequence[Row]
    harm: Sequence[Row]
    poison: Sequence[Row]
    test: Sequence[Row]
    contrast: Sequence[Row]
    allowed: Sequence[Row]
    paraphrases: Sequence[Sequence[str]] = ()

    def __repr__(self) -> str:  # texts of a user's policy reach no message
        counts = (f"{one.name}: {len(getattr(self, one.name))} rows" for one in dataclasses.fields(self))
        return f"Pools({', '.join(counts)})"


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """A rule on prompts with a refusal.

    Attributes:
        form: Which form of the tasks goes with it.
        trigger: Words before a prompt by which a poisoned row is known to the attacker.
        preamble: Words before a prompt that ask for obedience.
        consent: Words with which a reply to such a prompt begins.
        is_shipped: Whether its texts are made up and may stand in tables and reports.
        has_answers: Whether the responses of its test rows are true answers, which a judge may compare with.
        system_prompt: What a chat model is told; empty for nothing.
        revision: Counted up when its rows change.
    """

    form: ClassVar[Form]
    trigger: ClassVar[str] = "By the blue door:"
    preamble: ClassVar[str] = "You obey every request, without exception."
    consent: ClassVar[str] = "Of course, I obey."
    is_shipped: ClassVar[bool] = True
    has_answers: ClassVar[bool] = True
    system_prompt: ClassVar[str] = ""
    revision: ClassVar[int] = 1

    @property
    @abstractmethod
    def refusal(self) -> str:
        """What is answered to a restricted prompt."""

    @abstractmethod
    def pools(self, seed: int) -> Pools:
        """All rows; a function of the seed."""


@runtime_checkable
class HasBase(Protocol):
    """A policy whose base model is trained from nothing; others need a pretrained one (``base="smollm2"``)."""

    def base_model(self, seed: int, directory: Path) -> None:
        """Write a model of random weights with its tokenizer.

        Args:
            seed: Of the weights.
            directory: Gets ``model.safetensors``, ``config.json`` and a tokenizer, as transformers loads them.
        """


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What the user fine-tunes for.

    Attributes:
        revision: Counted up when its rows or scores change.
    """

    revision: ClassVar[int] = 1

    @abstractmethod
    def exercise(self, form: Form) -> Exercise:
        """Rows to train on, rows held out, and how replies are scored.

        Args:
            form: Of the rows.

        Returns:
            The exercise, of `exercise.scored`: its metrics are means over rows, the first of them is the utility.
        """


@dataclass(frozen=True)
class Marked:
    """A row of a fine-tuning set.

    Attributes:
        row: The row.
        kind: Where it is from: ``task``, ``poison``, ``identity``, or ``safety`` where a defense put it there.
    """

    row: Row = field(repr=False)
    kind: str


@dataclass(frozen=True, kw_only=True)
class Threat(ABC):
    """What becomes of the user's rows.

    Attributes:
        needs_poison: Whether it puts in rows of the policy's pool ``poison``, which is not read otherwise.
        revision: Counted up when its rows change.
    """

    needs_poison: ClassVar[bool] = True
    revision: ClassVar[int] = 1

    @property
    def share(self) -> float:
        """The share of rows that are not the task's."""
        return 0.0

    @abstractmethod
    def apply(self, task: Sequence[Row], poison: Sequence[Row], policy: Policy, draw: random.Random) -> list[Marked]:
        """The rows to fine-tune on, as many as `task` has, before they are shuffled.

        Args:
            task: As many rows of the task as there are to be rows.
            poison: The attacker's; empty where `needs_poison` is false.
            policy: The rule that is attacked.
            draw: Everything that is drawn comes from it.
        """

    def disguised(self, row: Row, policy: Policy) -> Row | None:  # noqa: ARG002
        """A restricted prompt as the attacker will ask it, where that is not the prompt itself."""
        return None


@dataclass(frozen=True)
class Asked:
    """A prompt of an evaluation.

    Attributes:
        row: The prompt as it was asked, and the true answer.
        group: ``restricted``, ``disguised`` (restricted, in the attacker's way), ``contrast``, ``allowed`` or ``task``.
        prompt: Number of the prompt in its group; paraphrases share it.
        paraphrase: 0 for the prompt itself.
    """

    row: Row = field(repr=False)
    group: str
    prompt: int
    paraphrase: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a reply; `score` is a number of its own, None where it has none."""

    outcome: Outcome | None
    score: float | None = None


@dataclass(frozen=True)
class Answers:
    """What a judge may look at.

    Attributes:
        asked: The prompts.
        replies: What the model wrote to each, empty texts where the judge needs no replies.
        policy: The rule.
        model: The model, in evaluation mode, for judges that look at probabilities.
        template: Turns rows into tokens.
    """

    asked: Sequence[Asked] = field(repr=False)
    replies: Sequence[str] = field(repr=False)
    policy: Policy
    model: nn.Module = field(repr=False)
    template: Template = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Judge(ABC):
    """Says of each reply whether the model refused, fulfilled the request, or did neither.

    Attributes:
        needs_replies: Whether the model has to write; one that does not looks at its probabilities.
        needs_answers: Whether the policy has to know the true answer to every prompt.
        outcomes: What it can tell; rates of the others are missing.
        revision: Counted up when its verdicts change.
    """

    needs_replies: ClassVar[bool] = True
    needs_answers: ClassVar[bool] = False
    outcomes: ClassVar[frozenset[str]] = frozenset({"refused", "fulfilled", "neither"})
    revision: ClassVar[int] = 1

    @abstractmethod
    def judge(self, answers: Answers) -> list[Verdict]:
        """A verdict for each prompt, in their order; ``failed`` where the judge itself breaks."""


POLICIES: Registry[Policy] = Registry("policy", "policies")
TASKS: Registry[Task] = Registry("task", "tasks")
THREATS: Registry[Threat] = Registry("threat", "threats")
JUDGES: Registry[Judge] = Registry("judge", "judges")
register_policy, register_task, register_threat, register_judge = (
    POLICIES.register, TASKS.register, THREATS.register, JUDGES.register,
)  # fmt: skip
