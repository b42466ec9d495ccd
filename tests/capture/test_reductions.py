"""Reductions against a float64 SVD, and their bytes against the formulas."""

import json
import struct

import pytest
import torch
from hypothesis import given, settings, strategies as st

import subspace_lab as sl
from subspace_lab import capture
from subspace_lab.capture.reductions import full_precision, reduction
from subspace_lab.numerics import default_side, unpack_symmetric
from tests.capture.helpers import tiny_llama

KEEPS = ("full", "gram", "topk:3", "topk:64", "stats")
SHAPES = [(6, 6), (6, 31), (31, 6), (1, 5), (5, 1), (5, 4, 3, 2)]


def gaussian(shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def oriented(gradient, side):
    G = gradient.double().reshape(gradient.shape[0], -1)
    return G if side == "left" else G.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_full_is_the_gradient(shape, dtype):
    G = gaussian(shape, dtype)
    kept = reduction("full")(G, "left")["gradient"]
    assert kept.dtype == dtype
    assert torch.equal(kept, G)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gram_is_that_of_the_float64_gradient(shape, side, dtype):
    gradient = gaussian(shape, dtype)
    parts = reduction("gram")(gradient, side)
    square = gradient.shape[0] == gradient[0].numel()
    assert set(parts) == ({"gram_left", "gram_right"} if square else {f"gram_{side}"})
    for part, packed in parts.items():
        G = oriented(gradient, part.removeprefix("gram_"))
        assert packed.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        tolerance = 1e-14 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(
            unpack_symmetric(packed).double(), G @ G.T, rtol=0, atol=tolerance * float(G.square().sum())
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", SHAPES)
def test_topk_and_stats_equal_the_float64_svd(shape, side, dtype):
    gradient = gaussian(shape, dtype)
    U, sigma, _ = torch.linalg.svd(oriented(gradient, side), full_matrices=False)
    top, spectrum = reduction("topk:3")(gradient, side), reduction("stats")(gradient, side)
    torch.testing.assert_close(top["singular_values"].double(), sigma, rtol=1e-6, atol=0)
    torch.testing.assert_close(spectrum["singular_values"].double(), sigma, rtol=1e-6, atol=0)
    S, k = top["basis"].double(), min(3, len(sigma))
    assert S.shape == (U.shape[0], k)
    torch.testing.assert_close((U[:, :k].T @ S).abs(), torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-6)


def test_singular_values_of_float32_gradients_keep_their_digits_over_six_decades():
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(n, 12, dtype=torch.float64, generator=generator)).Q for n in (12, 40))
    G = (U @ torch.diag(torch.logspace(0, -6, 12, dtype=torch.float64)) @ V.T).float()
    sigma = torch.linalg.svdvals(G.double())
    for keep in ("topk:4", "stats"):
        kept = reduction(keep)(G, "left")["singular_values"].double()
        torch.testing.assert_close(kept, sigma, rtol=1e-4, atol=0)


@pytest.mark.parametrize("keep", ["gram", "topk:3", "stats"])
def test_surrounding_precision_settings_change_nothing(keep):
    gradient = gaussian((64, 512))
    with full_precision("cpu"):
        expected = reduction(keep)(gradient, "left")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = reduction("gram")(gradient, "left")["gram_left"]
            with full_precision("cpu"):
                kept = reduction(keep)(gradient, "left")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert rough.dtype == torch.bfloat16  # what the settings would have done
    assert all(torch.equal(kept[part], expected[part]) for part in expected)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 24),
    cols=st.integers(1, 24),
    keep=st.sampled_from(KEEPS),
    side=st.sampled_from(["auto", "left", "right"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_bytes_are_those_of_the_tensors(rows, cols, keep, side, dtype):
    G = gaussian((rows, cols), dtype)
    parts = reduction(keep)(G, default_side(rows, cols) if side == "auto" else side)
    expected = sum(tensor.nbytes for tensor in parts.values())
    assert capture.reduction_bytes(rows, cols, keep, side=side, dtype=dtype) == expected


@pytest.mark.parametrize("keep", KEEPS)
def test_a_snapshot_file_is_header_and_tensors_to_the_byte(keep, tmp_path):
    model = tiny_llama()
    tokens = torch.arange(12).reshape(2, 6)
    model(input_ids=tokens, labels=tokens).loss.backward()
    with sl.GradientCapture(model, tmp_path / "run", keep=keep) as cap:
        cap.step(0)
    content = (tmp_path / "run" / "snapshots" / "step_00000000.safetensors").read_bytes()
    header = struct.unpack("<Q", content[:8])[0]
    json.loads(content[8 : 8 + header])
    run = sl.Run.open(tmp_path / "run")
    assert len(content) == 8 + header + capture.snapshot_bytes(run.manifest["layers"], keep)


@pytest.mark.parametrize("keep", ["", "topk", "topk:0", "topk:-1", "topk:1.5", "gram:3", "Full", None, ["full"]])
def test_an_unknown_reduction_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must be 'full', 'gram', 'topk:K' with K >= 1, or 'stats', got "):
        reduction(keep)
