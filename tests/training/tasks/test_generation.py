"""Replies of a model whose positions are learned, so that there is none after the last."""

import pytest
import torch

from subspace_lab.training.tasks.generation import replies

POSITIONS = 12


@pytest.fixture
def model():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 20, "bos_token_id": None, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(n_positions=POSITIONS, initializer_range=1.0, **sizes)).eval()


def by_hand(model, prompt, most):
    """The likeliest token after all before, one at a time, without a cache."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + most and tokens[-1] != 0:
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("length", [4, POSITIONS - 1, POSITIONS])
def test_a_reply_ends_where_the_positions_do(model, length):
    prompt = [1 + place % 19 for place in range(length)]
    (reply,) = replies(model, [prompt], 30, end=0)
    assert reply == by_hand(model, prompt, POSITIONS - length)


def test_the_longest_prompt_decides_for_all(model):
    short, long = replies(model, [[3, 5], [1 + place for place in range(9)]], 30, end=0)
    assert len(long) <= POSITIONS - 9
    assert short == by_hand(model, [3, 5], POSITIONS - 9)
