"""The columns of the tables in ``OUT_DIR``, and what kind each has: what is read there may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping

from subspace_lab.studies.optimizers.tables import CURVES, RESULTS

_CELL = {"cell": "str", "method": "str", "seed": "int"}
_ENERGY = {"step": "int", "kind": "str", "depth": "int", "rank": "int", "m": "int", "ratio": "float",
           "null_isotropic": "float", "null_noise": "float"}  # fmt: skip
_TANGENT = {"step": "int", "kind": "str", "rank": "int", "lag_steps": "int", "index": "int", "singular_value": "float",
            "normalized": "float", "null_noise": "float"}  # fmt: skip
_ANGLES = {"kind": "str", "m": "int", "rank": "int", "lag_steps": "int", "bin_low": "float", "bin_high": "float",
           "count": "int", "density": "float", "null_density": "float"}  # fmt: skip
_TUNED = {"method": "str", "lr": "float", "edge": "str", "seed": "int", "eval_loss": "float"}
_SHARES = {"bulk_share": "float", "recovery_share": "float", "limiter": "float"}
_NUMBERS_OF_METHODS = (
    "lr", "eval_loss", "eval_sd", "eval_low", "eval_high", "gap", "gap_low", "gap_high", "train_loss", "train_sd",
    "state_bytes", "state_bytes_formula", "peak_bytes", "base_bytes", "step_s", "refresh_share", "tokens", "wall_s",
)  # fmt: skip
_CORRELATIONS = tuple(f"{kind}_{name}" for name in ("energy", "flatness", "steepness") for kind in ("rho", "p"))
SCHEMAS: dict[str, Mapping[str, str]] = {
    "cells": RESULTS,
    "curves": {**CURVES, "step": "float"},
    "captured_energy": {**_ENERGY, "n": "int", **_CELL},
    "captured_tangent": {**_TANGENT, "depth": "int", **_CELL},
    "captured_angles": {**_ANGLES, **_CELL},
    "ackley": {"method": "str", "scale": "float", "seed": "int", "step": "int", "value": "float", "move": "float"},
    "fig1": {**_ENERGY, "seed": "int"},
    "fig2": {**_TANGENT, "seed": "int"},
    "fig3": {**_TUNED, "rule": "str", "moments": "str", "recovery": "str", "train_loss": "float", **_SHARES,
             "limited_share": "float"},
    "projection_angles": _ANGLES,
    "random_bases": {**_TUNED, "rule": "str", "recovery": "str", "refresh_share": "float"},
    "recovery": {"rule": "str", "recovery": "str", "seed": "int", "step": "float", **_SHARES},
    "refresh": {"method": "str", "seed": "int", "refresh_share": "float", "refresh_s": "float", "wall_s": "float",
                "step_s": "float"},
    "relation": {"method": "str", "energy": "float", "flatness": "float", "steepness": "float", "eval_loss": "float",
                 **dict.fromkeys(_CORRELATIONS, "float")},
    "sensitivity": {**_TUNED, "setting": "str", "value": "float", "usual": "bool"},
    "tables": {"method": "str", "edge": "str", "lrs": "int", "failed": "int", "seeds": "int",
               **dict.fromkeys(_NUMBERS_OF_METHODS, "float")},
}  # fmt: skip
