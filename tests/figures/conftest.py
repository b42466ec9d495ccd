"""Runs that the tests of figures and report share; they are read only."""

import pytest

from tests.figures.synthetic import layer_row, make_run, transformer

FEW = {"q_proj": (64, 64), "down_proj": (64, 96)}
CASES = {
    "llama": {},
    "one kind": {"layers": transformer(4, {"q_proj": (64, 64)}), "steps": (0, 10, 20, 30)},
    "no depth": {
        "layers": [layer_row(f"{i}.weight", -1, str(i), s) for i, s in ((0, (64, 100)), (2, (64, 64)), (4, (10, 64)))],
        "steps": tuple(range(0, 60, 10)),
    },
    "one snapshot": {"layers": transformer(3, FEW), "steps": (0,)},
    "two snapshots": {"layers": transformer(2, FEW), "steps": (0, 10)},
    "stats": {"layers": transformer(2, FEW), "keep": "stats", "steps": (0, 10, 20)},
    "topk": {"layers": transformer(2, FEW), "keep": "topk:16", "steps": (0, 10, 20)},
    "shared kind": {
        "layers": [
            layer_row(f"h.{d}.{part}.weight", d, part.split(".")[-1], shape)
            for d in range(3)
            for part, shape in (("attn.c_proj", (96, 96)), ("mlp.c_proj", (384, 96)), ("mlp.c_fc", (96, 384)))
        ],
        "steps": (0, 5, 10, 15),
    },
    "markup": {
        "layers": [
            layer_row("blocks/0/<script>window.hacked=1</script>", 0, "<b>bold</b>", (64, 64)),
            layer_row("a\"b'c&amp;\\.weight", 1, "$x^2$", (64, 64)),
            layer_row("../../etc/passwd", 2, "unbalanced $", (64, 64)),
            layer_row("a_" * 60, 1, "<b>bold</b>", (64, 64)),
        ],
        "steps": (0, 10, 20),
        "contexts": {0: {"nonfinite": {"../../etc/passwd": 3}}, 10: {"missing": ["../../etc/passwd"]}},
    },
}


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Opens the run of a case; each is made once."""
    made = {}

    def opened(name):
        if name not in made:
            made[name] = make_run(tmp_path_factory.mktemp("cases") / "run", **CASES[name])
        return made[name]

    return opened
