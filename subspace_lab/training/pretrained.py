"""Pretrained models and their tokenizers, by what a user names: the hub, a directory, a GGUF file, or ``smollm2``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspace_lab._paths import local_path
from subspace_lab._text import first_line
from subspace_lab.runs import RunError
from subspace_lab.training import smollm2
from subspace_lab.training.gguf_files import converted
from subspace_lab.training.hub import without_waiting_for_the_hub

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HUB = "hf:"
_OTHERWISE = "give hf:<name>, a directory or a .gguf"
NAMED = (smollm2.NAME,)  # names that are not paths; ./smollm2 is one


def find_model(model: str) -> str:
    """Where a model is.

    Args:
        model: ``hf:<name>``, a local directory, a ``.gguf`` file, or ``smollm2``.

    Returns:
        A name of the hub, or the path of a directory or of a GGUF file.

    Raises:
        ValueError: If it is a path at which there is nothing, or was not fetched.

    >>> find_model("hf:roneneldan/TinyStories-1M")
    'roneneldan/TinyStories-1M'
    """
    if model in NAMED:
        return str(smollm2.fetched())
    if model.startswith(HUB) and not model.startswith("hf://"):
        name = model.removeprefix(HUB)
        return str(local_path(name)) if name.startswith("~") else name
    path = local_path(model)
    if not path.exists():
        raise ValueError(f"{model!r} does not exist; write hf:{model} for a model of the hub")
    if not (path.is_file() if _is_gguf(path) else path.is_dir()):  # transformers would ask the hub for it
        raise ValueError(f"{model!r} is neither a directory of a model or tokenizer nor a .gguf file; name one")
    return str(path)


def weight_files(model: str) -> list[Path]:
    """The files that hold the weights of a model that is on this machine.

    Args:
        model: As of `find_model`.

    Returns:
        A GGUF file, or the safetensors of a directory; nothing for a model of the hub.
    """
    if model.startswith(HUB):
        return []
    path = Path(find_model(model))
    return [path] if _is_gguf(path) else sorted(path.glob("*.safetensors"))


def pretrained_model(model: str, *, outputs: int | None = None, **options: Any) -> PreTrainedModel:
    """A causal language model with its weights, or a model with a new head that classifies.

    Args:
        model: As of `find_model`.
        outputs: Of a head that classifies, whose weights are drawn from torch's generator; None for a causal language
            model.
        **options: Of ``from_pretrained``.

    Returns:
        The model.

    Raises:
        ValueError: If it cannot be loaded or lacks weights; one line.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForCausalLM if outputs is None else AutoModelForSequenceClassification
    how = {"use_safetensors": True, **({} if outputs is None else {"num_labels": outputs}), **options}
    loaded: PreTrainedModel
    loaded, found = _load(kind, "model", model, _OTHERWISE, how | {"output_loading_info": True})
    own = "" if outputs is None else f"{loaded.base_model_prefix}."  # a new head has no weights yet, nor may a pooler
    if missing := sorted(name for name in found["missing_keys"] if name.startswith(own) and ".pooler." not in name):
        raise ValueError(
            f"model {model!r} lacks weights: {len(missing)} of its parameters, such as {missing[0]}, would be random; "
            "give one with all of them"
        )
    return loaded


def is_encoder(model: str) -> bool:
    """Whether a model reads a text from both sides, as BERT does, and is no language model that writes.

    Args:
        model: As of `find_model`.

    Returns:
        Whether it does.

    Raises:
        ValueError: If its configuration cannot be loaded; one line.
    """
    if _is_gguf(Path(find_model(model))):
        return False  # what it is converted to writes
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = _load(AutoConfig, "model", model, _OTHERWISE, {})
    is_masked: bool = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return is_masked and not getattr(config, "is_decoder", False)


def pretrained_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with its chat template.

    Args:
        model: As of `find_model`.

    Returns:
        The tokenizer.

    Raises:
        ValueError: If it cannot be loaded; one line.
    """
    from transformers import AutoTokenizer

    loaded: PreTrainedTokenizerBase = _load(AutoTokenizer, "tokenizer", model, "name another with tokenizer=", {})
    return loaded


def _load(cls: Any, what: str, model: str, otherwise: str, options: dict[str, Any]) -> Any:
    found = find_model(model)
    if _is_gguf(Path(found)):
        with _in_a_line("model", model, "give a whole .gguf of a causal language model"):
            found = str(converted(Path(found)))
    with _in_a_line(what, model, otherwise), without_waiting_for_the_hub() if model.startswith(HUB) else nullcontext():
        return cls.from_pretrained(found, **options)


@contextmanager
def _in_a_line(what: str, model: str, otherwise: str) -> Iterator[None]:
    """Damaged files raise errors of any kind in transformers and what it reads them with."""
    try:
        yield
    except (ModuleNotFoundError, RunError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what} {model!r} cannot be loaded: {first_line(error)}; {otherwise}") from error


def _is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf"
