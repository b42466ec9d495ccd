"""Pretrained models and their tokenizers, by what a user names: the hub, a directory, a GGUF file, or ``smollm2``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspace_lab._paths import local_path
from subspace_lab.training import smollm2
from subspace_lab.training.gguf_files import converted
from subspace_lab.training.hub import without_waiting_for_the_hub

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HUB = "hf:"
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


def pretrained_model(model: str, **options: Any) -> PreTrainedModel:
    """A causal language model with its weights.

    Args:
        model: As of `find_model`.
        **options: Of ``from_pretrained``.

    Returns:
        The model.

    Raises:
        ValueError: If it cannot be loaded; one line.
    """
    from transformers import AutoModelForCausalLM

    otherwise = "give hf:<name>, a directory or a .gguf"
    loaded: PreTrainedModel = _load(
        AutoModelForCausalLM, "model", model, otherwise, {"use_safetensors": True, **options}
    )
    return loaded


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
    try:
        with without_waiting_for_the_hub() if model.startswith(HUB) else nullcontext():
            return cls.from_pretrained(str(converted(Path(found))) if _is_gguf(Path(found)) else found, **options)
    except ModuleNotFoundError:
        raise
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{what} {model!r} cannot be loaded: {reason}; {otherwise}") from error


def _is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf"
