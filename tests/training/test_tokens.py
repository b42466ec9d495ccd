"""Tokens: they decode to the text, are cached, and their hash says what they are."""

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer

from subspace_lab.training import TrainConfig, tokens
from subspace_lab.training.tokens import END_OF_TEXT, load_tokens


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "subspace_lab"


def config(data, **changes):
    return TrainConfig(**{"preset": "tiny", "data": str(data), **changes}).resolved()


def trained_tokenizer(cache):
    return Tokenizer.from_file(str(next(cache.glob("tokenizer-*.json"))))


def two_documents(tmp_path):
    (tmp_path / "1.txt").write_text("first, with ümlauts 日本\n\ttabs  and spaces \n", encoding="utf-8")
    (tmp_path / "2.txt").write_text("second" * 50, encoding="utf-8")
    return tmp_path / "*.txt", [path.read_text(encoding="utf-8") for path in sorted(tmp_path.glob("*.txt"))]


@pytest.mark.parametrize("piece", [1 << 20, 7])
def test_tokens_decode_to_the_documents_with_their_end_marks(tmp_path, cache, monkeypatch, piece):
    monkeypatch.setattr(tokens, "_PIECE", piece)
    pattern, documents = two_documents(tmp_path)
    data = load_tokens(config(pattern))
    text = trained_tokenizer(cache).decode(data.tokens.tolist(), skip_special_tokens=False)
    assert text == "".join(document + END_OF_TEXT for document in documents)
    assert data.tokens.dtype == np.uint16


def test_pieces_end_with_a_line_where_possible(monkeypatch):
    monkeypatch.setattr(tokens, "_PIECE", 6)
    assert [*tokens._pieces("ab\ncd\nefghijkl")] == [("ab\ncd\n", False), ("efghij", False), ("kl", True)]


def test_the_cache_gives_the_same_tokens_without_reading_the_text(tmp_path, cache, monkeypatch, capsys):
    pattern, _ = two_documents(tmp_path)
    first = load_tokens(config(pattern))
    assert "preparing the tokens of data=" in capsys.readouterr().err
    monkeypatch.setattr(tokens, "_encode_all", None)
    again = load_tokens(config(pattern))
    assert again.hash == first.hash
    np.testing.assert_array_equal(again.tokens, first.tokens)
    assert isinstance(again.tokens, np.memmap)
    assert capsys.readouterr().err == ""


def test_tokens_made_again_elsewhere_are_the_same(tmp_path, cache, monkeypatch):
    pattern, _ = two_documents(tmp_path)
    first = load_tokens(config(pattern))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert load_tokens(config(pattern)).hash == first.hash


def test_other_text_or_another_vocabulary_are_other_tokens(tmp_path, cache):
    pattern, _ = two_documents(tmp_path)
    hashes = [load_tokens(config(pattern)).hash, load_tokens(config(pattern, vocab_size=280)).hash]
    (tmp_path / "2.txt").write_text("changed")
    hashes.append(load_tokens(config(pattern)).hash)
    assert len({*hashes}) == 3


def test_a_damaged_cache_is_made_again(tmp_path, cache):
    pattern, _ = two_documents(tmp_path)
    first = load_tokens(config(pattern))
    next(cache.glob("tokens-*.npy")).write_bytes(b"damaged")
    assert load_tokens(config(pattern)).hash == first.hash


def test_without_a_writable_cache_the_tokens_are_made_with_a_warning(tmp_path, monkeypatch):
    pattern, _ = two_documents(tmp_path)
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    with pytest.warns(UserWarning, match="cannot write .*going on without a cache"):
        data = load_tokens(config(pattern))
    assert len(data.tokens)


def test_a_dataset_is_streamed_until_there_are_enough_tokens(tmp_path, cache):
    (tmp_path / "set").mkdir()
    pd.DataFrame({"text": ["some words of a row"] * 5000}).to_parquet(tmp_path / "set" / "train.parquet")
    few = config(f"hf:{tmp_path / 'set'}", steps=10, batch_size=2, accumulation=3, sequence_length=8)
    assert len(load_tokens(few).tokens) == (60 + 60 // 16 + 1) * 8
    many = config(f"hf:{tmp_path / 'set'}", steps=10**6)
    assert trained_tokenizer(cache).decode(load_tokens(many).tokens.tolist()) == "some words of a row" * 5000


def test_a_tokenizer_file_is_used_as_it_is(tmp_path, cache):
    pattern, documents = two_documents(tmp_path)
    load_tokens(config(pattern))
    path = next(cache.glob("tokenizer-*.json"))
    mine = load_tokens(config(tmp_path / "1.txt", tokenizer=str(path)))
    expected = Tokenizer.from_file(str(path)).encode(documents[0]).ids
    assert mine.tokens.tolist() == [*expected, Tokenizer.from_file(str(path)).token_to_id(END_OF_TEXT)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "nowhere.json"}, "tokenizer='nowhere.json' does not exist; leave it out"),
        ({"tokenizer": "nowhere"}, "'nowhere' does not exist; write hf:nowhere"),
        ({"preset": None, "model": "nowhere.gguf"}, "'nowhere.gguf' does not exist"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_one_line(text, changes, message):
    with pytest.raises(ValueError, match=message):
        load_tokens(config(text, **changes))


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.parquet", "empty.txt", "rows.jsonl"])
def test_empty_data_are_refused(tmp_path, name):
    (tmp_path / name).write_text('{"text": ""}\n' if name == "rows.jsonl" else "")
    with pytest.raises(ValueError, match="holds no text; choose another"):
        load_tokens(config(tmp_path / name))


def test_a_tokenizer_that_cannot_be_loaded_is_one_line(tmp_path, text):
    with pytest.raises(
        ValueError, match=r"tokenizer '.*' cannot be loaded: .*; name another with tokenizer="
    ) as caught:
        load_tokens(config(text, tokenizer=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_is_trained_on_no_more_text_than_is_asked_for():
    assert [*tokens._at_most(["abc", "defg", "h"], 5)] == ["abc", "de"]
