"""The cache between runs: whatever became of an entry, a training gets what it would have made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from subspace_lab.runs import RunError
from subspace_lab.training.cache import cached_array, cached_path, cached_text, find_cached

ARRAY, TEXT = np.arange(5000, dtype=np.uint16), '{"model": "ü"}' * 50


def flip(byte: int) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[byte] ^= 1
        path.write_bytes(data)

    return damage


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit in the middle": lambda path: flip(path.stat().st_size // 2)(path),
    "the last bit": flip(-1),
    "the first bit": flip(0),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a huge hole": lambda path: os.truncate(path, 1 << 40),
    "something else": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "a FIFO": replaced_by(os.mkfifo),
    "a circle of links": replaced_by(lambda path: path.symlink_to(path)),
    "no rights": lambda path: path.chmod(0),
    "gone": Path.unlink,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "subspace_lab"


def is_right(make_array: Callable[[], np.ndarray] = lambda: ARRAY, make_text: Callable[[], str] = lambda: TEXT) -> bool:
    return bool((cached_array("tokens.npy", make_array) == ARRAY).all()) and cached_text("t.json", make_text) == TEXT


def never() -> np.ndarray:
    raise AssertionError("made again")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("suffix", ["", ".sha256"])
def test_a_damaged_entry_is_made_again_and_serves_from_then_on(cache: Path, damage, suffix: str) -> None:
    assert is_right()
    for name in ("tokens.npy", "t.json"):
        damage(cache / f"{name}{suffix}")
    assert is_right()
    assert is_right(never, never)  # it was mended


def test_an_entry_with_the_seal_of_another_is_made_again(cache: Path) -> None:
    assert is_right()
    cached_array("other.npy", lambda: ARRAY[::-1].copy())
    shutil.copy(cache / "other.npy", cache / "tokens.npy")
    assert is_right()
    assert is_right(never, never)


def test_a_directory_in_the_place_of_an_entry_costs_the_cache_alone(cache: Path) -> None:
    for name in ("tokens.npy", "t.json"):
        (cache / name / "mine").mkdir(parents=True)
    with pytest.warns(UserWarning, match="going on without a cache"):
        assert is_right()
    assert (cache / "tokens.npy" / "mine").is_dir()


def test_no_tokens_are_kept_like_any_other(cache: Path) -> None:
    empty = np.empty(0, np.uint16)
    for make in (lambda: empty, never):
        found = cached_array("none.npy", make)
        assert (found.shape, found.dtype) == ((0,), np.uint16)


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/kept")
    assert is_right()
    assert (tmp_path / "home" / "kept" / "subspace_lab" / "tokens.npy").is_file()


def test_a_user_without_a_home_goes_on_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does for a user who is not in passwd
    with pytest.warns(UserWarning, match="there is no home directory to keep a cache in; going on without a cache"):
        assert is_right()


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="becoming another user takes root")
def test_a_process_whose_user_has_neither_a_name_nor_a_home() -> None:
    code = (
        "import os\n"
        "from subspace_lab.training.cache import cache_dir\n"
        "from subspace_lab.runs import RunError\n"
        "os.setuid(54321)\n"
        "try:\n    cache_dir()\nexcept RunError as error:\n    print(error)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {"HOME", "XDG_CACHE_HOME"}}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "there is no home directory to keep a cache in\n", done.stderr


def test_what_is_sound_is_used_without_a_word(cache: Path) -> None:
    assert is_right()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_right(never, never)
    assert isinstance(cached_array("tokens.npy", never), np.memmap)


def two_files(directory: Path) -> None:
    (directory / "a.bin").write_bytes(ARRAY.tobytes())
    (directory / "b.txt").write_text(TEXT, encoding="utf-8")


def directory_is_right(make: Callable[[Path], object] = two_files) -> bool:
    path = cached_path("model", make, directory=True)
    return (path / "a.bin").read_bytes() == ARRAY.tobytes() and (path / "b.txt").read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["model/a.bin", "model.sha256"])
def test_a_damaged_directory_is_made_again(cache: Path, damage, name: str) -> None:
    assert directory_is_right()
    damage(cache / name)
    assert directory_is_right()
    assert directory_is_right(lambda _: never())


@pytest.mark.parametrize("change", [
    lambda path: (path / "c").touch(), lambda path: (path / "c").mkdir(), lambda path: os.mkfifo(path / "c"),
    lambda path: (path / "a.bin").rename(path / "c"),
    lambda path: [shutil.rmtree(path), path.write_text("file")], lambda path: [shutil.rmtree(path), os.mkfifo(path)],
])  # fmt: skip
def test_a_directory_with_other_files_is_made_again(cache: Path, change) -> None:
    assert directory_is_right()
    change(cache / "model")
    assert directory_is_right()
    assert sorted(path.name for path in (cache / "model").iterdir()) == ["a.bin", "b.txt"]


def test_what_killed_processes_left_of_a_directory_is_removed(cache: Path) -> None:
    (cache / ".abc.partial" / "model").mkdir(parents=True)
    assert directory_is_right()
    assert sorted(path.name for path in cache.iterdir()) == ["model", "model.sha256"]


def test_making_that_fails_leaves_nothing(cache: Path) -> None:
    def fail(path: Path) -> None:
        two_files(path)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached_path("model", fail, directory=True)
    assert find_cached("model") is None
    assert not list(cache.iterdir())


def test_what_cannot_be_kept_where_a_path_is_needed_is_one_line(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"file/subspace_lab.*XDG_CACHE_HOME says where it is") as caught:
        cached_path("model", two_files, directory=True)
    assert "\n" not in str(caught.value)
