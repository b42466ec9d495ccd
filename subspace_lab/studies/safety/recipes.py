"""The five kinds of jobs, as recipes of trials: base, alignment, tuning, repair, evaluation."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from subspace_lab._reading import read_json
from subspace_lab.experiments.recipe import STATE, Measured, is_first, settings_content
from subspace_lab.runs import Run
from subspace_lab.runs.files import file_hash, publish_json
from subspace_lab.runs.tables import write_table
from subspace_lab.studies.safety.chained import chain_prepare, chain_repair
from subspace_lab.studies.safety.content import (
    described,
    described_chain,
    exercise_of,
    hash_of_file,
    held_out_hash,
    pool_hash,
    pools_of,
    split_of,
    tests_hash,
)
from subspace_lab.studies.safety.context import RunContext
from subspace_lab.studies.safety.evaluation import evaluate
from subspace_lab.studies.safety.feed import Feed, StepLosses
from subspace_lab.studies.safety.kinds import JUDGES, POLICIES, TASKS, THREATS, HasBase, Marked
from subspace_lab.studies.safety.metrics.outcomes import row_of
from subspace_lab.studies.safety.places import outcomes_file, weights_dir
from subspace_lab.studies.safety.stages import NONE, Chain, chain
from subspace_lab.studies.safety.steps import DefendedSteps
from subspace_lab.studies.safety.weights import keep_model, load_adapters, load_model, tensors
from subspace_lab.training import TrainConfig, train
from subspace_lab.training.adapters import add_lora
from subspace_lab.training.checkpoint import (
    checkpoint_path,
    checkpoint_steps,
    load_further,
    load_model as load_checkpointed,
    optimizer_bytes,
)
from subspace_lab.training.pretrained import weight_files
from subspace_lab.training.sharding import is_sharded
from subspace_lab.training.tasks.rows import Split
from subspace_lab.training.tasks.template import Template

if TYPE_CHECKING:
    from torch import nn

    from subspace_lab.training.tasks.rows import Row

REVISION = 1  # of all kinds of jobs: counted up when the same configuration comes to other results
_BESIDE = (".json", ".jinja", ".model", ".txt")  # files of a tokenizer
_TERM_ROWS = 8  # harmful rows that the terms of two defenses are measured on
_TERM_PARAMETERS = 10**7  # of a model at most: the products with its Hessian take many passes
_POOLS = ("safety", "harm")  # what a defense may draw from

Config = Mapping[str, Any]


class Base:
    """The base model: one of the policy's own, or a pretrained one, taught to answer every prompt."""

    def shares(self, config: Config) -> bool:
        """See `Recipe`."""
        return bool(config["trains"])

    def identity(self, config: Config, *, data_hash: str | None = None) -> Mapping[str, Any]:  # noqa: ARG002
        """See `Recipe.identity`."""
        return {
            **_common("base", config),
            "model": _model_content(config["model"]),
            "training": _training_content(config),
            "rows": pool_hash(config["policy"], config["seed"], "base") if config["trains"] else None,
        }

    def run(
        self,
        directory: Path,
        config: Config,
        parents: Sequence[Path],  # noqa: ARG002
        *,
        resume: bool,
        keeps_weights: bool,  # noqa: ARG002
    ) -> Measured:
        """See `Recipe.run`."""
        if (done := _done(directory)) is not None:
            return done
        policy = POLICIES.parse(config["policy"])
        with ExitStack() as stack:
            source = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if config["model"] is not None:
                _fetched(config["model"], source)
            else:
                assert isinstance(policy, HasBase)
                policy.base_model(config["seed"], source)
            model = load_model(source)
            if not config["trains"]:
                return _finished(directory, model, source, {})
            rows = [Marked(row, "base") for row in pools_of(config["policy"], config["seed"]).base]
            job = _Job(directory, config, source, model, rows, Chain(), {})
            return job.trained(resume=resume)


class Align:
    """The alignment of the base, with the defenses that act in it; or an aligned model of the user."""

    def shares(self, config: Config) -> bool:
        """See `Recipe`: a defense acts in a step of one process."""
        return bool(config["trains"] and config["chain"] == NONE)

    def identity(self, config: Config, *, data_hash: str | None = None) -> Mapping[str, Any]:  # noqa: ARG002
        """See `Recipe.identity`."""
        seed, defenses = config["seed"], chain(config["chain"])
        return {
            **_common("align", config),
            "model": _model_content(config["model"]),
            "training": _training_content(config),
            "chain": described_chain(defenses),
            "rows": pool_hash(config["policy"], seed, "align") if config["trains"] else None,
            **_pools_content(config, defenses),
        }

    def run(
        self,
        directory: Path,
        config: Config,
        parents: Sequence[Path],
        *,
        resume: bool,
        keeps_weights: bool,  # noqa: ARG002
    ) -> Measured:
        """See `Recipe.run`."""
        if (done := _done(directory)) is not None:
            return done
        defenses = chain(config["chain"])
        earlier = {"base": weights_dir(parents[0])} if parents else {}
        with ExitStack() as stack:
            if config["model"] is None:
                source = earlier["base"]
            else:
                source = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                _fetched(config["model"], source)
            model = load_model(source)
            if config["trains"]:
                rows = [Marked(row, "align") for row in pools_of(config["policy"], config["seed"]).align]
                job = _Job(directory, config, source, model, rows, defenses, earlier)
                return job.trained(resume=resume, measure=job.terms)
            context = _context(config, model, source, earlier)
            chain_repair(defenses, context)
            return _finished(directory, model, source, {})


class Tune:
    """The user's fine-tuning from the aligned model, with the defenses that act in it."""

    def shares(self, config: Config) -> bool:
        """See `Recipe`: a defense, and a look at gradients, are of one process."""
        return bool(config["chain"] == NONE and config["probe_every"] is None)

    def identity(self, config: Config, *, data_hash: str | None = None) -> Mapping[str, Any]:  # noqa: ARG002
        """See `Recipe.identity`."""
        defenses = chain(config["chain"])
        return {
            **_common("tune", config),
            "task": described(TASKS, TASKS.parse(config["task"])),
            "threat": described(THREATS, THREATS.parse(config["threat"])),
            "draw": config["draw"],
            "training": _training_content(config),
            "chain": described_chain(defenses),
            "rows": _split(config).hash,
            "probe_every": config["probe_every"],
            **_pools_content(config, defenses),
        }

    def run(
        self,
        directory: Path,
        config: Config,
        parents: Sequence[Path],
        *,
        resume: bool,
        keeps_weights: bool,  # noqa: ARG002
    ) -> Measured:
        """See `Recipe.run`; the parents are the aligned model and, where a defense needs it, the base."""
        if (done := _done(directory)) is not None:
            return done
        earlier = dict(zip(("aligned", "base"), map(weights_dir, parents), strict=False))
        source = earlier["aligned"]
        model = load_model(source)
        rows = [*_split(config).marked]
        job = _Job(directory, config, source, model, rows, chain(config["chain"]), earlier)
        return job.trained(resume=resume)


class Repair:
    """What is done to a tuned model; it is tuned once for all repairs."""

    def identity(self, config: Config, *, data_hash: str | None = None) -> Mapping[str, Any]:  # noqa: ARG002
        """See `Recipe.identity`."""
        defenses = chain(config["chain"])
        return {**_common("repair", config), "chain": described_chain(defenses), **_pools_content(config, defenses)}

    def run(
        self,
        directory: Path,
        config: Config,
        parents: Sequence[Path],
        *,
        resume: bool,  # noqa: ARG002
        keeps_weights: bool,  # noqa: ARG002
    ) -> Measured:
        """See `Recipe.run`; the parents are the tuned model, the aligned one and, where needed, the base."""
        if (done := _done(directory)) is not None:
            return done
        tuned, *before = parents
        earlier = dict(zip(("aligned", "base"), map(weights_dir, before), strict=False))
        settings = TrainConfig.from_dict(config["train"])
        if settings.adapter is None:
            model = load_model(weights_dir(tuned))
        else:
            model = load_model(earlier["aligned"])
            _adapt(model, settings)
            load_adapters(tuned, model)
        defenses, context = chain(config["chain"]), _context(config, model, weights_dir(tuned), earlier)
        chain_repair(defenses, context)
        used = {f"{kind}_rows": len(context.pools[kind]) for kind in _POOLS if kind in defenses.needs}
        return _finished(directory, model, weights_dir(tuned), used)


class Evaluate:
    """A model is asked and judged; see `evaluation.evaluate`."""

    def identity(self, config: Config, *, data_hash: str | None = None) -> Mapping[str, Any]:  # noqa: ARG002
        """See `Recipe.identity`."""
        policy = POLICIES.parse(config["policy"])
        return {
            **_common("evaluate", config),
            "task": described(TASKS, TASKS.parse(config["task"])),
            "threat": None if config["threat"] is None else described(THREATS, THREATS.parse(config["threat"])),
            "judges": [described(JUDGES, JUDGES.parse(judge)) for judge in config["judges"]],
            "evaluation": config["evaluation"],
            "rows": [tests_hash(config["policy"], config["seed"]), held_out_hash(config["task"], policy.form)],
        }

    def run(
        self,
        directory: Path,
        config: Config,
        parents: Sequence[Path],
        *,
        resume: bool,  # noqa: ARG002
        keeps_weights: bool,  # noqa: ARG002
    ) -> Measured:
        """See `Recipe.run`."""
        policy = POLICIES.parse(config["policy"])
        judges = [JUDGES.parse(judge) for judge in config["judges"]]
        source = weights_dir(parents[0])
        outcomes = evaluate(
            load_model(source), _template(source), policy, judges, seed=config["seed"],
            exercise=exercise_of(config["task"], policy.form),
            threat=None if config["threat"] is None else THREATS.parse(config["threat"]), **config["evaluation"],
        )  # fmt: skip
        file = outcomes_file(directory)
        write_table(file, outcomes)
        directory.mkdir(parents=True, exist_ok=True)
        rows = [row_of(outcomes, judge) for judge in judges]
        publish_json(directory / STATE, {"outcomes": file_hash(file), "rows": [_plain(row) for row in rows]})
        asr = rows[0]["asr"]
        return Measured({"asr": asr} if asr == asr else {})


def warm_up() -> None:
    """What every job would compute anew, for the process that they are forked from; it decides nothing."""
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import transformers.generation.utils  # noqa: F401

    with suppress(ImportError, AttributeError, TypeError):  # an inner part of transformers, which may change
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")


BASE, ALIGN, TUNE, REPAIR, EVALUATE = Base(), Align(), Tune(), Repair(), Evaluate()


class _Job:
    """A training with defenses, from the weights of another model."""

    def __init__(
        self,
        directory: Path,
        config: Config,
        source: Path,
        model: nn.Module,
        rows: list[Marked],
        defenses: Chain,
        earlier: Mapping[str, Path],
    ) -> None:
        self._directory, self._source, self._model, self._chain = directory, source, model, defenses
        self._config = dataclasses.replace(TrainConfig.from_dict(config["train"]), model=str(source))
        _adapt(model, self._config)
        if config.get("freeze_embeddings"):
            _freeze_embeddings(model)
        self._run = _context(config, model, source, earlier)
        self._run.rows = rows
        assert self._config.steps
        assert self._config.batch_size
        self._run.steps = self._config.steps
        self._run.batch_size = self._config.batch_size * (self._config.accumulation or 1)
        template = _template(source)
        self._needs = defenses.needs
        begun = self._begun(earlier)
        chain_prepare(defenses, self._run)
        feed = functools.partial(Feed, self._config, template=template)
        self._feeds = {"user": feed(rows=[one.row for one in self._run.rows])}
        probes = config.get("probe_every") if self._run.pools.get("safety") else None
        self._feeds |= {
            kind: feed(rows=[one.row for one in rows])
            for kind, rows in self._run.pools.items()
            if rows and (kind in self._needs or (probes and (kind == "safety" or not defenses.defenses)))
        }
        frozen = functools.partial(_frozen, earlier["aligned"]) if "aligned" in earlier else None
        losses = StepLosses(model, self._feeds, self._config, frozen)
        self._steps = DefendedSteps(defenses, self._run, losses, probe_every=probes, earlier=begun)

    def trained(self, *, resume: bool, measure: Callable[[], Mapping[str, Any]] = dict) -> Measured:
        """Train, or go on; then the repair hooks of the same stage, then publish the model and what was measured."""
        directory, steps = self._directory, self._steps
        if resume and Run.open(directory).manifest.get("finished"):
            last = checkpoint_steps(directory)[-1]
            load_checkpointed(directory, last, self._model)
            load_further(directory, last, steps)
        else:
            train(
                directory, self._config, resume=resume, feed=self._feeds["user"], model=self._model, hooks=steps.hooks
            )
        if not is_first():
            return Measured()
        last = checkpoint_steps(directory)[-1]
        if is_sharded(self._model):  # the others, which have parts of it, have ended
            self._model = self._run.model = load_model(self._source)
            _adapt(self._model, self._config)
            load_checkpointed(directory, last, self._model)
        self._model.eval()
        chain_repair(self._chain, self._run)
        kinds = [one.kind for one in self._run.rows]
        drawn = {  # what replaced rows of the user, or the whole pool
            f"{kind}_rows": kinds.count(kind) or (len(self._run.pools[kind]) if kind in self._needs else 0)
            for kind in _POOLS
        }
        measured = {
            "state_bytes": optimizer_bytes(directory, last), "passes": steps.passes, "steps": steps.probes,
            "overlaps": steps.overlaps, **drawn, **measure(),
        }  # fmt: skip
        done = _finished(directory, self._model, self._source, measured)
        for step in checkpoint_steps(directory):
            checkpoint_path(directory, step).unlink()
        return done

    def terms(self) -> dict[str, Any]:
        """Rows of the table ``terms`` on some harmful rows; none where there are none, or of a large model."""
        rows = self._run.pools["harm"][:_TERM_ROWS]
        if not rows or sum(p.numel() for p in self._model.parameters()) > _TERM_PARAMETERS:
            return {}
        from subspace_lab.studies.safety.referee.terms import term_table

        batch = next(iter(self._run.batches(rows)))
        table = term_table(self._model, lambda model, given: model(**given).loss, batch)
        return {"terms": table.to_dict("records")}

    def _begun(self, earlier: Mapping[str, Path]) -> dict[str, Callable[[], Sequence[torch.Tensor]]]:
        """Earlier weights in the order of the trainable parameters: those that the training begins with are its own."""
        found: dict[str, Callable[[], Sequence[torch.Tensor]]] = {}
        named = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        first = "aligned" if "aligned" in earlier else "base"
        if first in self._needs and first in earlier:
            kept = [p.detach().clone() for p in named.values()]
            found[first] = lambda: kept
        if first == "aligned" and "base" in earlier and self._config.adapter is None:
            found["base"] = functools.cache(functools.partial(_in_order, earlier["base"], named))
        return found


def _in_order(directory: Path, named: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    saved = tensors(directory)
    return [saved[name].to(p.device) for name, p in named.items()]


def _common(kind: str, config: Config) -> dict[str, Any]:
    policy = POLICIES.parse(config["policy"])
    return {"kind": kind, "revision": REVISION, "policy": described(POLICIES, policy), "seed": config["seed"]}


def _training_content(config: Config) -> dict[str, Any] | None:
    """All settings of a training with their defaults; where its model lies does not count."""
    if not config.get("trains", True):
        return None
    content = settings_content(TrainConfig.from_dict(config["train"]))
    return {**{name: value for name, value in content.items() if name != "model"},
            "freeze_embeddings": bool(config.get("freeze_embeddings"))}  # fmt: skip


def _model_content(model: str | None) -> Any:
    """A pretrained model by its files, those of its tokenizer and template included; one of the hub by its name."""
    if model is None:
        return None
    files = weight_files(model)
    beside = {file for one in files for file in one.parent.iterdir() if file.suffix in _BESIDE}
    return {file.name: hash_of_file(file) for file in sorted({*files, *beside})} or model


def _pools_content(config: Config, defenses: Chain) -> dict[str, Any]:
    """The pools that the defenses, or the looks at gradients, draw from."""
    looks = frozenset({"safety"} if defenses.defenses else _POOLS) if config.get("probe_every") else frozenset()
    used = defenses.needs | looks
    return {kind: pool_hash(config["policy"], config["seed"], kind) for kind in _POOLS if kind in used}


def _split(config: Config) -> Any:
    return split_of(config["task"], config["policy"], config["threat"], config["rows"], config["seed"], config["draw"])


def _context(config: Config, model: nn.Module, source: Path, earlier: Mapping[str, Path]) -> RunContext:
    pools = pools_of(config["policy"], config["seed"])
    template = _template(source)
    device = next(model.parameters()).device
    settings = TrainConfig.from_dict({**config["train"], "model": str(source)})
    size = settings.batch_size or 1

    def batches(rows: Sequence[Marked]) -> Any:
        given: list[Row] = [one.row for one in rows]
        for batch in Feed(settings, given, template).batches(given, size):
            yield {name: tensor.to(device) for name, tensor in batch.items()}

    return RunContext(
        model=model, rows=[], state={},
        pools={kind: [Marked(row, kind) for row in getattr(pools, kind)] for kind in _POOLS}, batches=batches,
        earlier={name: functools.partial(tensors, directory) for name, directory in earlier.items()},
        seed=config["seed"], batch_size=size,
    )  # fmt: skip


def _template(source: Path) -> Template:
    return Template.of(TrainConfig(model=str(source)), Split((), ()))


def _adapt(model: nn.Module, config: TrainConfig) -> None:
    if config.adapter is not None:
        assert config.adapter_rank
        torch.manual_seed(config.seed)
        add_lora(model, rank=config.adapter_rank, targets=config.adapter_targets)
        model.eval()


def _freeze_embeddings(model: Any) -> None:
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for p in [] if module is None else module.parameters():
            p.requires_grad_(False)


def _frozen(directory: Path) -> nn.Module:
    model: nn.Module = load_model(directory)
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def _fetched(model: str, target: Path) -> None:
    """Write a pretrained model and its tokenizer into a directory, in float32."""
    from subspace_lab.training.pretrained import pretrained_model, pretrained_tokenizer

    pretrained_model(model).float().save_pretrained(target)
    pretrained_tokenizer(model).save_pretrained(target)


def _done(directory: Path) -> Measured | None:
    """What an earlier attempt measured that came to publish its model, and was killed before its record."""
    file = directory / STATE
    if not (file.is_file() and weights_dir(directory).is_dir()):
        return None
    for step in checkpoint_steps(directory) if is_first() else ():
        checkpoint_path(directory, step).unlink()
    return Measured({}, read_json(file).get("state_bytes"))


def _finished(directory: Path, model: nn.Module, source: Path, measured: Mapping[str, Any]) -> Measured:
    directory.mkdir(parents=True, exist_ok=True)
    keep_model(directory, model, source)
    publish_json(directory / STATE, dict(measured))
    return Measured({}, measured.get("state_bytes"))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that are missing become None, which JSON has."""
    return {name: None if value != value else value for name, value in row.items()}
