"""Names of the hub where it cannot be reached: one line, at once; and nothing is different where it can."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from subspace_lab.training import TrainConfig, hub
from subspace_lab.training.hub import without_waiting_for_the_hub
from subspace_lab.training.models import build_model
from subspace_lab.training.tokens import load_tokens


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing listens there, and whoever asks for the address of a name waits for ever."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("settings", [{"data": "hf:nobody/nothing", "preset": "tiny"}, {"model": "hf:nobody/nothing"}])
def test_a_name_of_the_hub_is_one_line_at_once(settings, unreachable, text) -> None:
    config = TrainConfig(**{"data": str(text), **settings}).resolved()
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"'hf:nobody/nothing' cannot be (read|loaded): ") as caught:
        load_tokens(config)
    assert time.monotonic() - begun < 30  # the client itself asks for a minute
    assert len(str(caught.value).splitlines()) == 1
    assert constants.HF_HUB_OFFLINE is False


def test_nor_does_the_model_wait(unreachable, text) -> None:
    config = TrainConfig(model="hf:nobody/nothing", data=str(text)).resolved()
    begun = time.monotonic()
    with pytest.raises(ValueError, match="model 'hf:nobody/nothing' cannot be loaded: "):
        build_model(config)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("status", [200, 403, 503])
def test_a_hub_that_answers_is_asked(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with without_waiting_for_the_hub():
            assert constants.HF_HUB_OFFLINE is False
        server.shutdown()


def test_one_that_takes_the_call_and_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with without_waiting_for_the_hub():
            assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is False
