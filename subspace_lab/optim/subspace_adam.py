"""Adam in a subspace: one machine with three exchangeable parts, the rule, the moments and the recovery.

Legend: W parameter, G gradient (m, n), oriented so that ``m <= n``; ``S (m, r)`` basis; ``A = S^T G (r, n)``;
M, V moments and O Adam's direction (r, n); ``L`` recovered part of the bulk (m, n); t steps counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from subspace_lab._checks import check_choice, one_of
from subspace_lab.optim.adam import adam_direction, transport, transport_kept
from subspace_lab.optim.base import Group, Live, State, name_of
from subspace_lab.optim.bases import Basis, Dense
from subspace_lab.optim.column_norms import ColumnNorms
from subspace_lab.optim.cosines import Cosines
from subspace_lab.optim.dealing import Decomposition
from subspace_lab.optim.low_rank import Layout, LowRankOptimizer, Turn, low_rank_moments
from subspace_lab.optim.magnitude import bounded, limit, shrinking
from subspace_lab.optim.matrices import Matrix, cast, exact_dtype, squared_columns, state_dtype
from subspace_lab.optim.options import OPTIONS, Options, check_known, defaults_of, signature_of
from subspace_lab.optim.recovery import FEEDBACK, Scaling, add_signs, largest_growth, scaled_bulk
from subspace_lab.optim.rules import RULES, Context, Moment, Rule, ShippedRule, Trig
from subspace_lab.optim.rules.base import orthonormalized
from subspace_lab.optim.rules.guarded import Guarded
from subspace_lab.optim.whole import WHOLE, Whole, local

_PARTS = ("rule", "moments", "recovery")
_PART_OPTIONS = {
    "transport": ("transport",),
    "scaled": ("recovery_scale", "zeta", "limiter"),
    "sign": ("recovery_scale",),
}
_ALL_PARTS = (
    "recovery_scale", "zeta", "limiter", "transport", "walk_step", "swaps", "jump_every", "step_size", "random_after",
    "rho",
)  # fmt: skip


class SubspaceAdam(ColumnNorms):
    """Adam on the projected gradient, with any rule x moments x recovery.

    Every ``update_interval`` steps the *rule* refreshes the basis S, *moments* says what becomes of Adam's moments
    then, and *recovery* what becomes of the part of the gradient outside of the subspace. With ``recovery="scaled"``
    the step is ``W -= lr scale (S O + (G - S A) diag(phi))``, computed as ``S (O - A diag(phi)) + G diag(phi)``: one
    back-projection instead of two and no residual matrix.

    A new method is a few lines: an object with ``first`` and ``refresh`` (see `Rule`) given as ``rule``. It must be
    stateless; all that it may depend on is in its arguments, which makes a resumed run exact.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``rule`` (a name in `RULES` or a rule), ``moments``, ``recovery``, the options of those three, and the
            ones that all share; see `Options`. An option of a part that is not in use is refused.

    Limitations: the limiter is a ratchet: see ``zeta`` and `limiter_factors`.
    """

    options: ClassVar[tuple[str, ...]] = (
        *LowRankOptimizer.options, *_PARTS, *_ALL_PARTS,
    )  # fmt: skip
    parts: ClassVar[tuple[str, str, str] | None] = None  # rule, moments and recovery of a named method

    def __init_subclass__(cls, **keywords: Any) -> None:
        if cls.parts is not None:
            cls.options = (*LowRankOptimizer.options, *part_options(dict(zip(_PARTS, cls.parts, strict=True)), {}))
        super().__init_subclass__(**keywords)

    def __init__(self, params: ParamsT, lr: float | None = None, **options: Unpack[Options]) -> None:
        self._custom: dict[str, Rule] = {}
        self.limiter: dict[tuple[int, int], Tensor] = {}
        if self.parts is None:
            options["rule"] = self._register(options.get("rule", OPTIONS["rule"].default))
            self._check_rule(options["rule"])
            parts = {name: options.get(name, OPTIONS[name].default) for name in _PARTS}
            known = (*LowRankOptimizer.options, *_PARTS, *part_options(parts, self._custom))
            check_known(options, known, f"{type(self).__name__} with {', '.join(map(str, parts.values()))}")
        super().__init__(params, lr, **options)

    def _register(self, rule: str | Rule) -> str:
        """The name of a rule; objects are remembered under their class' name."""
        if isinstance(rule, str):
            return rule
        if isinstance(rule, type) or not all(callable(getattr(rule, part, None)) for part in ("first", "refresh")):
            raise ValueError(f"rule must be {one_of(RULES)}, or an object with first and refresh, got {rule!r}")
        name = type(rule).__name__
        if self._custom.setdefault(name, rule) is not rule:
            raise ValueError(f"two rules are called {name}: use one object, or two classes")
        return name

    def _check_rule(self, name: str) -> None:
        if name not in self._custom:
            check_choice("rule", name, RULES, otherwise=", or an object")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_custom": self._custom}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"limiter": {}, **state})

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, as torch does, and check it.

        Args:
            param_group: ``params`` and the options that differ from the defaults.
        """
        if isinstance(param_group, dict) and "rule" in param_group:
            param_group = {**param_group, "rule": self._register(param_group["rule"])}
            self._check_rule(param_group["rule"])
        super().add_param_group(param_group)

    def _defaults(self) -> Group:
        return {**super()._defaults(), **dict(zip(_PARTS, self.parts or (), strict=False))}

    def _known(self, param_group: Group) -> tuple[str, ...]:
        if self.parts is not None:
            return self.options
        merged = {**self.defaults, **param_group}
        return (*LowRankOptimizer.options, *_PARTS, *part_options(merged, self._custom))

    def _check_group(self, group: Group) -> None:
        self._check_rule(group["rule"])
        super()._check_group(group)
        for name, default in defaults_of(self._known(group), self.changed).items():
            group.setdefault(name, default)

    @classmethod
    def layout(cls, m: int, n: int, group: Group, dtype: torch.dtype) -> Layout:
        """See `LowRankOptimizer.layout`."""
        exact, r = exact_dtype(dtype), cls.effective_rank(m, group)
        rule = RULES.get(group["rule"])
        basis: Layout = {"basis": ((m, r), state_dtype(group, dtype))}
        if isinstance(rule, Trig):
            basis = {"indices": ((r,), torch.int32)} if rule.keeps_indices else {}
        layout = {**basis, **low_rank_moments(r, n, group, dtype)}
        if group["recovery"] == "scaled":
            layout["recovery_norm"] = ((), exact)
        if group["recovery"] in FEEDBACK:
            layout["error"] = ((m, n), exact)
        return layout

    def limiter_factors(self) -> dict[str, float]:
        """By what the limiter multiplied the recovered part in the last step, 1 where it did not act.

        Returns:
            Parameter name (its place where it has none, a piece's number appended) to factor.
        """
        names = [name_of(g, i) for g in self.param_groups for i in range(len(g["params"]))]
        splits = [g["splits"] for g in self.param_groups for _ in g["params"]]
        return {
            names[i] if splits[i] == 1 else f"{names[i]}[{k}]": float(factor) for (i, k), factor in self.limiter.items()
        }

    def _scales_columns(self, group: Group) -> bool:
        return group["rank"] is not None and group["recovery"] == "scaled"

    def _summary(self, x: Live) -> Tensor:
        error = self._error(x)
        return super()._summary(x) if error is None else super()._summary(x) + error.sum()

    def _error(self, x: Live) -> Tensor | None:
        """What is added to a gradient, as far as it is here."""
        error = self.state[x.p].get("error") if x.p in self.state else None
        return None if error is None else local(error)

    def _passed(self, live: list[Live]) -> list[Live] | None:
        passed = super()._passed(live)
        self.limiter.clear()
        return passed

    def _shrunk(self, x: Live) -> Live:
        error = self._error(x)
        if error is not None:
            error.mul_(shrinking(error, limit(error.dtype, state_dtype(x.group, x.p.dtype)), x.p))
        return super()._shrunk(x)

    def _step_matrix(self, x: Matrix, state: State, turn: Turn, index: tuple[int, int]) -> None:
        group = turn.group
        G = state["error"].add_(x.G) if group["recovery"] in FEEDBACK else x.G
        lies = x.lies
        S, before = self._basis(G, state, turn, lies, index)
        M, V = state["exp_avg"], state["exp_avg_sq"]
        exact, bulk = torch.promote_types(exact_dtype(x.part.dtype), M.dtype), self._bulk(x, state, group)
        A = cast(S.project(G), exact)
        if bulk == "scaled":
            A, columns = lies.to_moments(A, self._squares(index, G))
        elif bulk == "sign":
            A, columns = lies.to_moments(A, squared_columns(G))
        else:
            (A,) = lies.to_moments(A)
        if group["recovery"] != "scaled":
            A = bounded(A, G.dtype, M.dtype)
        O = adam_direction(A, M, V, t=_age(turn), betas=group["betas"], eps=group["eps"])
        target, beta = x.target(G.dtype, turn.decay)
        if bulk == "scaled":
            scaling = self._scale_bulk(columns, A, O, state, turn, S.products, lies)
            self.limiter[index] = scaling.applied
            O, phi = lies.from_moments(cast(O.addcmul_(A, scaling.phi, value=-1), G.dtype), cast(scaling.phi, G.dtype))
            S.add_to(target, O, beta=beta, alpha=turn.size)
            target.addcmul_(G, phi, value=turn.size)
        elif bulk == "sign":
            O, A, columns = lies.from_moments(cast(O, G.dtype), cast(A, G.dtype), columns)
            S.add_to(target, O, beta=beta, alpha=turn.size)
            add_signs(target, G, S, A, columns, turn.size * group["recovery_scale"])
        else:
            (O,) = lies.from_moments(cast(O, G.dtype))
            S.add_to(target, O, beta=beta, alpha=turn.size)
            if group["recovery"] in FEEDBACK:
                _carry_error(G, S, A, before, group["betas"][0], lies)
        x.finish(target, turn.decay, turn.rounding())

    def _bulk(self, x: Matrix, state: State, group: Group) -> str:
        """What becomes of the bulk in a step; ``"none"`` where there is no bulk."""
        is_all = state["exp_avg"].shape[0] == x.lies.num_rows(x.G)
        return "none" if is_all or group["recovery"] in FEEDBACK else str(group["recovery"])

    def _rule(self, group: Group) -> ShippedRule | Trig | Guarded:
        custom = self._custom.get(group["rule"])
        return Guarded(custom) if custom else RULES[group["rule"]]

    def _context(self, state: State, turn: Turn, lies: Whole) -> Context:
        """What the rule may look at in this step."""
        if turn.t == 1:
            return Context(turn.group, turn.t, 0, None, turn.draw, lies)
        moment = Moment(state["exp_avg"], 1 - turn.group["betas"][0] ** _age(turn, before=True))
        return Context(turn.group, turn.t, turn.refresh, moment, turn.draw, lies)

    def _old_basis(self, state: State, exact: torch.dtype, lies: Whole) -> Tensor:
        basis: Tensor = state["basis"]
        if basis.dtype.itemsize < exact.itemsize:  # orthonormal but for the digits that it is not kept in
            return orthonormalized(basis.to(exact), lies)
        return basis.to(exact)

    def _decomposition(self, x: Matrix, state: State, turn: Turn) -> Decomposition | None:
        rule, context = self._rule(turn.group), self._context(state, turn, WHOLE)
        if isinstance(rule, Trig) or not rule.needs_all(context):
            return None
        G, rank = x.G.to(exact_dtype(x.G.dtype)), state["basis"].shape[1]
        if turn.group["recovery"] in FEEDBACK:
            G = G + state["error"]
        S = None if turn.t == 1 else self._old_basis(state, G.dtype, x.lies)

        def compute(G: Tensor, S: Tensor | None, M: Tensor | None) -> Tensor:
            if S is None:
                return rule.first(G, rank, context)
            moment = None if M is None or context.moment is None else replace(context.moment, raw=M)
            found = rule.refresh(S, G, replace(context, moment=moment))
            return found[0] if isinstance(found, tuple) else found

        of_others = isinstance(rule, Guarded) and S is not None  # who may look at the moment, too
        return Decomposition(x.lies, G, S, state["exp_avg"] if of_others else None, rank, compute)

    def _basis(
        self, G: Tensor, state: State, turn: Turn, lies: Whole, index: tuple[int, int]
    ) -> tuple[Basis, tuple[Basis, Tensor] | None]:
        """The basis of this step, chosen or refreshed where that is due; and the old one with the first moment."""
        rule, is_due = self._rule(turn.group), turn.t == 1 or turn.is_refresh
        if isinstance(rule, Trig):
            with self.refresh_clock:
                if is_due:
                    return self._renewed_cosines(rule, G, state, turn, lies)
                return self._cosines(rule, G, state, turn, lies), None
        before = None
        if is_due:
            with self.refresh_clock:
                before = self._renew(rule, G, state, turn, lies, index)
        return Dense(cast(state["basis"], G.dtype), lies), before

    def _renew(
        self, rule: ShippedRule | Guarded, G: Tensor, state: State, turn: Turn, lies: Whole, index: tuple[int, int]
    ) -> tuple[Basis, Tensor] | None:
        """Choose or refresh a basis that is kept, and carry the moments over."""
        group, basis, ready = turn.group, state["basis"], self._bases.pop(index, None)
        context = self._context(state, turn, lies)
        exact = G.to(exact_dtype(G.dtype))
        if turn.t == 1:
            basis.copy_(rule.first(exact, basis.shape[1], context) if ready is None else ready)
            return None
        S_old, M = self._old_basis(state, exact.dtype, lies), state["exp_avg"]
        found = rule.refresh(S_old, exact, context) if ready is None else ready
        S, Q = found if isinstance(found, tuple) else (found, None)
        before = (Dense(S_old.clone(), lies), M.to(exact.dtype, copy=True)) if group["recovery"] == "feedback" else None
        if group["moments"] == "transport":
            if Q is None:
                (Q,) = lies.sum_rows(S.mT @ S_old)
            _transport(state, Q, _age(turn, before=True), group)
        elif group["moments"] == "reset":
            _reset(state)
        basis.copy_(S)
        return before

    def _renewed_cosines(
        self, rule: Trig, G: Tensor, state: State, turn: Turn, lies: Whole
    ) -> tuple[Basis, tuple[Basis, Tensor] | None]:
        """The same of a basis that is not kept."""
        group, M, context, before = turn.group, state["exp_avg"], self._context(state, turn, lies), None
        if turn.t == 1:
            S = rule.first(G, M.shape[0], context)
        else:
            S_old = self._cosines(rule, G, state, replace(turn, refresh=turn.refresh - 1), lies)
            S = rule.refresh(S_old, G, context)
            if group["recovery"] == "feedback":
                before = (S_old, M.to(G.dtype, copy=True))
            if group["moments"] == "transport":
                _transport_cosines(state, S, S_old, _age(turn, before=True), group)
            elif group["moments"] == "reset":
                _reset(state)
        if rule.keeps_indices:
            state["indices"].copy_(S.indices)
        return S, before

    def _cosines(self, rule: Trig, G: Tensor, state: State, turn: Turn, lies: Whole) -> Cosines:
        """A basis that is not kept, of the turn's refresh."""
        return rule.kept(G, state["exp_avg"].shape[0], state.get("indices"), turn.draw_of, turn.refresh, lies)

    def bases(self, x: Live, grad: Tensor) -> Iterator[tuple[Matrix, Basis]]:
        """The matrices of a parameter that has a state, each with the basis that it has now.

        Args:
            x: The parameter.
            grad: Its gradient, dense; of a distributed parameter the part that is here.

        Yields:
            Each matrix with its gradient, and its basis.
        """
        kept, rule = self.state[x.p], self._rule(x.group)
        now = Turn(x.group, kept["step"], kept["refreshes"], False, (x.group["seed"], x.key))
        for matrix, state, turn in self._matrices(x, now, grad):
            if isinstance(rule, Trig):
                yield matrix, self._cosines(rule, matrix.G, state, turn, matrix.lies)
            else:
                yield matrix, Dense(cast(state["basis"], matrix.G.dtype), matrix.lies)

    def _scale_bulk(
        self, columns: Tensor, A: Tensor, O: Tensor, state: State, turn: Turn, products: torch.dtype, lies: Whole
    ) -> Scaling:
        """Column factors of G for the bulk, as far as moments of these columns are here."""
        scaling = scaled_bulk(
            columns, A, O, recovery_scale=turn.group["recovery_scale"],
            zeta=largest_growth(turn.group, _age(turn), _age(turn, before=True)),
            last_norm=state["recovery_norm"], products=products, lies=lies,
        )  # fmt: skip
        state["recovery_norm"].copy_(scaling.norm)
        return scaling


SubspaceAdam.__signature__ = signature_of(SubspaceAdam.options, {})


def options_with(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that `SubspaceAdam` has with the parts among the given ones.

    Args:
        options: ``rule``, ``moments`` and ``recovery`` as far as they are not the defaults, and others.

    Returns:
        Names.

    Raises:
        ValueError: If there is no such rule.
    """
    parts = {name: options.get(name, OPTIONS[name].default) for name in _PARTS}
    check_choice("rule", parts["rule"], RULES)
    return (*LowRankOptimizer.options, *_PARTS, *part_options(parts, {}))


def part_options(parts: Mapping[str, Any], custom: Mapping[str, Rule]) -> tuple[str, ...]:
    """Options that belong to the three parts.

    Args:
        parts: ``rule``, ``moments`` and ``recovery``.
        custom: Rules that are not part of this package.

    Returns:
        Names.
    """
    rule = custom.get(parts["rule"]) or RULES.get(parts["rule"])
    return (
        *getattr(rule, "options", ()),
        *_PART_OPTIONS.get(str(parts["moments"]), ()),
        *_PART_OPTIONS.get(str(parts["recovery"]), ()),
    )


def _age(turn: Turn, before: bool = False) -> int:
    """Adam steps since the moments were zero, this one included, or the ones before it."""
    t = turn.t - before
    restarted = turn.group["moments"] == "reset" and turn.refresh - (before and turn.is_refresh) > 0
    return (t - 1) % int(turn.group["update_interval"]) + 1 if restarted else t


def _transport(state: State, Q: Tensor, age: int, group: Group) -> None:
    """Carry the moments over when the basis turns by ``Q = S^T S_old``, in float32 or better."""
    M, V = state["exp_avg"], state["exp_avg_sq"]
    exact = torch.promote_types(Q.dtype, M.dtype)
    m, v = M.to(exact), V.to(exact)
    transport(m, v, Q.to(exact), age=age, betas=group["betas"], clamped=group["transport"] == "clamped")
    M.copy_(m)
    V.copy_(v)


def _transport_cosines(state: State, S: Cosines, S_old: Cosines, age: int, group: Group) -> None:
    """`_transport` between bases of cosines: of the same signs they have columns in common, and else nothing."""
    if S.signs is not S_old.signs:
        _transport(state, S.turn(S_old), age, group)
        return
    transport_kept(
        state["exp_avg"], state["exp_avg_sq"], S.places_in(S_old),
        age=age, betas=group["betas"], clamped=group["transport"] == "clamped",
    )  # fmt: skip


def _reset(state: State) -> None:
    state["exp_avg"].zero_()
    state["exp_avg_sq"].zero_()


def _carry_error(
    G: Tensor, S: Basis, A: Tensor, before: tuple[Basis, Tensor] | None, beta1: float, lies: Whole
) -> None:
    """Turn the accumulated gradient, in place, into what the projection lost of it and of the old first moment.

    ``E = G - S A + c (S_old M_old - S Q M_old)`` with ``c = beta1 / (1 - beta1)`` and ``Q = S^T S_old``.
    """
    if lies.num_rows(G) == A.shape[0]:
        G.zero_()  # nothing is lost
        return
    if before is None:
        (A,) = lies.from_moments(A.to(G.dtype))
        S.add_to(G, A, alpha=-1)
        return
    c, (S_old, M_old) = beta1 / (1 - beta1), before
    Q = S.turn(S_old)
    kept, M_old = lies.from_moments(torch.addmm(A.to(G.dtype), Q, M_old, alpha=c), M_old)
    S.add_to(G, kept, alpha=-1)
    S_old.add_to(G, M_old, alpha=c)
