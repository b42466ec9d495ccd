"""A capture records what is true, or says once what it cannot see, and never ends a training."""

import copy
import math
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import subspace_lab as sl
from subspace_lab.capture import record
from tests.capture.helpers import batches, context, mean_gradients, mlp, mlp_loss, relative_error, train

NAMES = ["up_proj.weight", "down_proj.weight"]


def said_of(call):
    """What a call warns about, each line once and in one line."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    lines = [str(one.message) for one in said if issubclass(one.category, UserWarning)]
    assert not any("\n" in line for line in lines)
    return lines


def captured(path, name):
    """The steps in which a gradient was kept."""
    run = sl.Run.open(path)
    run.verify()
    return [step for step in run.steps if name not in context(run, step)["missing"]]


# Cells of a notebook that are run again.


@pytest.mark.parametrize("again", ["other path", "removed", "resumed"])
def test_a_cell_that_is_run_again_takes_the_place_of_the_first(again, tmp_path):
    model, data = mlp(), batches(9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def cell(number):
        path = tmp_path / (f"run{number}" if again == "other path" else "run")
        if again == "removed":
            shutil.rmtree(path, ignore_errors=True)
        capture = sl.GradientCapture(model, path, every=1, keep="full", resume=again == "resumed" and number > 0)
        capture.attach(optimizer, start_step=3 * number if again == "resumed" else 0)
        train(model, optimizer, data[3 * number : 3 * number + 3])

    expected = []
    for number in range(3):
        expected.append(mean_gradients(model, mlp_loss, data[3 * number : 3 * number + 1]))
        lines = said_of(lambda number=number: cell(number))
        assert ["was not closed, and another one" in line for line in lines] == [True] * (number > 0)
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    if again == "resumed":
        assert sl.Run.open(tmp_path / "run").metrics["step"].tolist() == list(range(9))
    elif again == "removed":
        assert sl.Run.open(tmp_path / "run").steps == [0, 1, 2]
    for number in range(3):
        run = sl.Run.open(tmp_path / (f"run{number}" if again == "other path" else "run"))
        if again == "other path":
            assert (run.steps, run.manifest["finished"]) == ([0, 1, 2], False)
        if again != "removed" or number == 2:
            step = 3 * number if again == "resumed" else 0
            assert relative_error(run.gradient(step, NAMES[0]), expected[number][NAMES[0]]) < 1e-6


def test_a_cell_that_failed_before_its_first_step_can_be_run_again(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def cell(data):
        capture = sl.GradientCapture(model, tmp_path / "run", every=1)
        capture.attach(optimizer)
        train(model, optimizer, data, capture)

    with pytest.raises(TypeError):
        cell([None])
    assert said_of(lambda: cell(batches(2))) == []
    assert captured(tmp_path / "run", NAMES[0]) == [0, 1]
    with pytest.raises(sl.RunError, match="already holds a run"):  # which is not thrown away
        sl.GradientCapture(model, tmp_path / "run")
    assert said_of(lambda: train(model, optimizer, batches(1))) == []
    assert captured(tmp_path / "run", NAMES[0]) == [0, 1, 2]


def test_two_captures_at_once_stay_two(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    a, b = (sl.GradientCapture(model, tmp_path / name, every=every) for name, every in (("a", 1), ("b", 2)))
    with a, b:
        a.attach(optimizer)
        b.attach(optimizer)
        train(model, optimizer, batches(3))
    assert (captured(tmp_path / "a", NAMES[0]), captured(tmp_path / "b", NAMES[0])) == ([0, 1, 2], [0, 2])


# Whatever fails ends the capture, not the training.


@pytest.mark.parametrize("how", ["removed", "replaced", "reduction", "by hand"])
def test_a_failure_ends_the_capture_with_one_line(how, tmp_path, monkeypatch):
    model, path = mlp(), tmp_path / "run"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def training():
        with sl.GradientCapture(model, path, every=1, keep="stats") as capture:
            if how != "by hand":
                capture.attach(optimizer)
            for step, batch in enumerate(batches(6)):
                if step == 3:
                    if how == "reduction":
                        monkeypatch.setattr(record, "reduction", lambda _: lambda *_: 1 / 0)
                    else:
                        shutil.rmtree(path)
                    if how == "replaced":
                        sl.GradientCapture(mlp(), path, every=5).close()
                loss = mlp_loss(model, batch)
                loss.backward()
                capture.log(loss=loss)
                if how == "by hand":
                    capture.step(step)
                optimizer.step()
                optimizer.zero_grad()

    lines = said_of(training)
    if how == "replaced":  # in this process, which knows both
        assert ["another one writes into" in line for line in lines] == [True]
    else:
        assert ["the training goes on" in line for line in lines] == [True]
    assert path.exists() == (how in {"replaced", "reduction"})
    if how == "replaced":
        assert (sl.Run.open(path).steps, sl.Run.open(path).manifest["capture"]["every"]) == ([], 5)
    if how == "reduction":
        assert (captured(path, NAMES[0]), sl.Run.open(path).manifest["finished"]) == ([0, 1, 2], False)
    expected, twin = mlp(), None
    twin = torch.optim.SGD(expected.parameters(), lr=0.1)
    train(expected, twin, batches(6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


# Parameters that come, go and change.


def step_with(model, capture, step):
    """A step whose gradient of every trained parameter is random; returns them by name."""
    gradients = {}
    for name, parameter in model.named_parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
        gradients[name] = parameter.grad
    capture.step(step)
    return gradients


def test_a_module_that_is_replaced_is_looked_up_again(tmp_path):
    model, expected = mlp(), []
    with sl.GradientCapture(model, tmp_path / "run", every=1, keep="full") as capture:
        expected.append(step_with(model, capture, 0))
        old = model["up_proj"]
        model["up_proj"] = nn.Linear(8, 12)
        assert old.weight.grad is not None  # which nobody zeroes any more
        expected.append(step_with(model, capture, 1))
        model.double()
        model.float()
        expected.append(step_with(model, capture, 2))
    run = sl.Run.open(tmp_path / "run")
    for step in run.steps:
        assert torch.equal(run.gradient(step, NAMES[0]), expected[step][NAMES[0]])


def tie(model):
    model["down_proj"].weight = model["again"].weight


CHANGES = {
    "frozen": (lambda model: model["up_proj"].requires_grad_(False), NAMES[0], r"up_proj.weight is frozen now"),
    "parametrized": (
        lambda model: nn.utils.parametrizations.orthogonal(model["up_proj"]), NAMES[0],
        r"up_proj.weight is not a parameter of the model any more .* not captured: make a capture",
    ),
    "removed": (lambda model: model.pop("up_proj"), NAMES[0], r"up_proj.weight is not a parameter of the model"),
    "resized": (
        lambda model: model.update({"up_proj": nn.Linear(8, 20)}), NAMES[0],
        r"up_proj.weight has shape \(20, 8\), its parameter had \(12, 8\)",
    ),
    "tied": (tie, "again.weight", r"again.weight is not a parameter of the model any more .* tied"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "name", "message"), CHANGES.values(), ids=CHANGES)
def test_what_changes_in_a_training_is_recorded_as_missing_and_said_once(change, name, message, tmp_path):
    model = mlp()
    model["again"] = nn.Linear(12, 4)

    def training():
        with sl.GradientCapture(model, tmp_path / "run", every=1, keep="full") as capture:
            step_with(model, capture, 0)
            change(model)
            step_with(model, capture, 1)
            step_with(model, capture, 2)

    lines = said_of(training)
    assert len(lines) <= 2
    assert re.search(message, " ".join(lines)), lines
    assert captured(tmp_path / "run", name) == [0]
    assert captured(tmp_path / "run", NAMES[1]) == [0, 1, 2]


def test_layers_that_thaw_are_named_once_and_those_that_freeze_come_back(tmp_path):
    model = mlp()
    model["up_proj"].requires_grad_(False)

    def training():
        with sl.GradientCapture(model, tmp_path / "run", every=1) as capture:
            for step in range(6):
                model["up_proj"].requires_grad_(step >= 2)
                model["down_proj"].requires_grad_(step != 3)
                step_with(model, capture, step)

    thawed, frozen, nothing = said_of(training)
    assert "step 3: no captured layer has a gradient" in nothing
    assert "step 2: up_proj.weight is trained now and was not" in thawed
    assert "step 3: down_proj.weight is frozen now" in frozen
    assert captured(tmp_path / "run", NAMES[1]) == [0, 1, 2, 4, 5]


def test_a_complex_layer_is_named_when_it_is_left_out(tmp_path):
    model = nn.ModuleDict({"real": nn.Linear(8, 8), "phase": nn.Linear(8, 8, dtype=torch.complex64)})

    def training():
        with sl.GradientCapture(model, tmp_path / "run", every=1) as capture:
            step_with(model, capture, 0)

    assert ["not captured: phase.weight, of complex numbers" in line for line in said_of(training)] == [True]
    squares = sum(float(p.grad.abs().square().sum()) for p in model.parameters())
    assert context(sl.Run.open(tmp_path / "run"), 0)["grad_norm"] == pytest.approx(math.sqrt(squares), rel=1e-6)


# Several optimizers, and those that are not seen.


@pytest.mark.parametrize("rates", [(1, 1), (1, 1, 1), (1, 5), (3, 1)])
def test_every_optimizer_is_captured_when_it_steps(rates, tmp_path):
    """Turns of optimizers as in GANs: each one's gradient exists only when it is about to step."""
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(4, 6) for name in "abc"[: len(rates)]})
    optimizers = {name: torch.optim.SGD(layer.parameters(), lr=0.1) for name, layer in model.items()}
    events, counts, opened = [], dict.fromkeys(model, 0), []
    with sl.GradientCapture(model, tmp_path / "run", every=10, keep="full") as capture:
        for optimizer in optimizers.values():
            capture.attach(optimizer)
        for tick in range(60):
            for (name, optimizer), rate in zip(optimizers.items(), rates, strict=True):
                if tick % rate:
                    continue
                for other in model.values():
                    for parameter in other.parameters():
                        parameter.grad = torch.full_like(parameter, 77.0)  # of a loss that is not its own
                for parameter in model[name].parameters():
                    parameter.grad = torch.randn_like(parameter)
                if counts[name] == len(opened):  # no optimizer has taken so many steps before
                    opened.append(len(events))
                norm = nn.utils.get_total_norm([p.grad for p in model[name].parameters()])
                events.append((name, model[name].weight.grad.clone(), norm))
                optimizer.step()
                counts[name] += 1
    run = sl.Run.open(tmp_path / "run")
    assert run.metrics["step"].tolist() == list(range(len(opened))) == list(range(60))
    assert run.steps == list(range(0, 60, 10))
    for step in run.steps:
        norms = []
        for name in model:
            first, norm = next(taken for whose, *taken in events[opened[step] :] if whose == name)
            assert torch.equal(run.gradient(step, f"{name}.weight"), first), (name, step)
            norms.append(norm)
        assert context(run, step)["grad_norm"] == pytest.approx(math.hypot(*map(float, norms)), rel=1e-6)


def test_an_optimizer_for_each_parameter_as_in_gradient_release(tmp_path):
    model, data, twin = mlp(), batches(4), None
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def release(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    with sl.GradientCapture(model, tmp_path / "run", every=2, keep="full") as capture:
        for parameter, optimizer in optimizers.items():
            capture.attach(optimizer)
            parameter.register_post_accumulate_grad_hook(release)
        expected = []
        for batch in data:
            twin = mlp()
            twin.load_state_dict(model.state_dict())
            expected.append(mean_gradients(twin, mlp_loss, [batch]))
            mlp_loss(model, batch).backward()
    run = sl.Run.open(tmp_path / "run")
    assert run.steps == [0, 2]
    for step in run.steps:
        for name in NAMES:
            assert relative_error(run.gradient(step, name), expected[step][name]) < 1e-6
        norm = math.sqrt(sum(float(g.square().sum()) for g in expected[step].values()))
        assert context(run, step)["grad_norm"] == pytest.approx(norm, rel=1e-6)


class TwoHalves(torch.optim.SGD):
    """As sharpness-aware minimization is mostly written: what trains is not called `step`."""

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad


class NoStep(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    def update(self):
        pass


def test_optimizers_whose_step_has_another_name(tmp_path):
    model = mlp()

    def training():
        optimizer = TwoHalves(model.parameters(), lr=0.1)
        with sl.GradientCapture(model, tmp_path / "run", every=1) as capture:
            capture.attach(optimizer)
            mlp_loss(model, batches(1)[0]).backward()
            optimizer.second_step()

    assert ["no call of step() of the attached optimizer was seen" in line for line in said_of(training)] == [True]
    with sl.GradientCapture(model, tmp_path / "other") as capture:
        with pytest.raises(ValueError, match=r"NoStep has no step\(\) that could be watched; call capture.step\(n\)"):
            capture.attach(NoStep(model.parameters()))
        capture.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    assert said_of(capture.close) == []


# Numbers and tensors of all kinds.


def test_whole_numbers_of_numpy_and_torch_are_steps_and_intervals(tmp_path):
    model = mlp()
    with sl.GradientCapture(model, tmp_path / "run", every=np.int64(2), keep="full") as capture:
        for step in (np.int64(0), torch.tensor(1), np.uint8(2)):
            capture.log(tokens=np.array([3]), ratio=np.float32(0.5), done=np.bool_(True))
            step_with(model, capture, step)
        for wrong in (True, np.bool_(True), 3.0, 10**15, torch.tensor(3.5)):
            with pytest.raises(ValueError, match="a step must be a whole number"):
                capture.step(wrong)
    run = sl.Run.open(tmp_path / "run")
    assert (run.steps, run.manifest["capture"]["every"]) == ([0, 2], 2)
    assert run.metrics["step"].tolist() == [0, 1, 2]
    assert run.metrics["tokens"].tolist() == [3, 3, 3]
    with pytest.raises(ValueError, match="every must be a whole number"):
        sl.GradientCapture(model, tmp_path / "other", every=np.bool_(True))


@pytest.mark.parametrize(
    "values", [{"loss": "n/a"}, {"lr": True}, {"grad_norm": ""}, {"loss": torch.tensor(1j)}, {"a\nb": [1]},
               {"loss_scale": "1"}, {"x": np.array(1j)}, {"accumulation": np.bool_(True)}]
)  # fmt: skip
def test_what_is_no_number_is_refused_in_one_line_before_anything_is_written(values, tmp_path):
    with sl.GradientCapture(mlp(), tmp_path / "run") as capture:
        with pytest.raises(ValueError, match=r"^log\(.*\) takes a number") as error:
            capture.log(**values)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def layouts(shape):
    """One gradient in the layouts that tensors come in."""
    G = torch.randn(shape)
    wide = torch.zeros(shape[0], 2 * shape[1])
    wide[:, ::2] = G
    yield from {
        "transposed": G.T.contiguous().T,
        "strided": wide[:, ::2],
        "expanded": G[:1].expand(shape),
        "coo": torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, 2.0]), shape),
        "csr": (G * (G > 0)).to_sparse_csr(),
        "csc": (G * (G > 0)).to_sparse_csc(),
        "zero": torch.zeros(shape),
        "huge": G * 1e25,
        "tiny": G * 1e-38,
    }.items()


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (2, 2)])
def test_gradients_of_any_layout(shape, tmp_path):
    torch.manual_seed(0)
    for name, G in layouts(shape):
        layer = nn.Linear(shape[1], shape[0], bias=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                layer.weight.grad = G
            except RuntimeError:  # a layout that torch does not take as a gradient
                continue
        dense = G.to_dense() if G.layout != torch.strided else G
        for keep in ("full", "stats"):
            with sl.GradientCapture(layer, tmp_path / name / keep, keep=keep) as capture:
                capture.step(0)
            run = sl.Run.open(tmp_path / name / keep)
            with run.snapshot(0) as snapshot:
                assert not snapshot.context["missing"], name
                norm = float(dense.double().norm())
                assert snapshot.context["grad_norm"] == pytest.approx(norm, rel=1e-5, abs=1e-45), name
                if keep == "stats":
                    sigma = torch.linalg.svdvals(dense.double())
                    got = snapshot.get("singular_values", "weight").double()
                    torch.testing.assert_close(got, sigma, rtol=1e-4, atol=1e-6 * float(sigma[0]) + 1e-44)
            if keep == "full":
                assert torch.equal(run.gradient(0, "weight"), dense), name


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (1, 1), (3, 1, 1)])
def test_parameters_of_odd_shapes_beside_a_matrix(shape, tmp_path):
    model = nn.Module()
    model.odd, model.matrix = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(3, 4))
    with sl.GradientCapture(model, tmp_path / "run", keep="topk:2") as capture:
        gradients = step_with(model, capture, 0)
    run = sl.Run.open(tmp_path / "run")
    assert run.verify() == 1
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    assert context(run, 0)["grad_norm"] == pytest.approx(norm, rel=1e-6)


def test_names_with_control_characters_stay_in_one_line(tmp_path):
    model = nn.ModuleDict({"good": nn.Linear(2, 3)})
    model._modules["evil\n\x1b[31m\u202e"] = nn.Linear(2, 3)

    def training():
        with sl.GradientCapture(model, tmp_path / "run", every=1) as capture:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, math.nan)
            capture.step(0)
            model._modules["evil\n\x1b[31m\u202e"].requires_grad_(False)
            capture.step(1)

    lines = said_of(training)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_the_wrappers_of_a_model_may_come_after_the_capture(tmp_path):
    bare, data = mlp(), batches(2)
    twin = copy.deepcopy(bare)
    with sl.GradientCapture(bare, tmp_path / "run", every=1, keep="full") as capture:
        wrapped = nn.DataParallel(torch.compile(bare, backend="eager"))
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        capture.attach(optimizer)
        train(bare, optimizer, data)
    expected = mean_gradients(twin, mlp_loss, data[:1])
    assert relative_error(sl.Run.open(tmp_path / "run").gradient(0, NAMES[0]), expected[NAMES[0]]) < 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_step_that_is_compiled_is_captured(tmp_path):
    model, data, expected = mlp(), batches(3), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @torch.compile(backend="eager")
    def step():
        optimizer.step()

    with sl.GradientCapture(model, tmp_path / "run", every=1, keep="full") as capture:
        capture.attach(optimizer)
        for batch in data:
            expected.append(mean_gradients(model, mlp_loss, [batch]))
            mlp_loss(model, batch).backward()
            step()
            optimizer.zero_grad()
    run = sl.Run.open(tmp_path / "run")
    assert run.steps == [0, 1, 2]
    for number in run.steps:
        assert relative_error(run.gradient(number, NAMES[0]), expected[number][NAMES[0]]) < 1e-6


def test_a_run_of_metrics_alone_is_not_taken_for_an_empty_one(tmp_path):
    model = mlp()
    with sl.GradientCapture(model, tmp_path / "run", every=None) as capture:
        step_with(model, capture, 0)
    open_again = sl.GradientCapture(model, tmp_path / "run", every=None, resume=True)
    with pytest.raises(sl.RunError, match="already holds a run"):
        sl.GradientCapture(model, tmp_path / "run", every=None)
    open_again.close()
    assert sl.Run.open(tmp_path / "run").metrics["step"].tolist() == [0]
