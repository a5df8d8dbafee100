"""What the docs promise of networks: no command looks for one, unless what it is asked for lies elsewhere."""

import socket
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from restain.cli import main
from restain.image import save_image


def test_training_staining_and_measuring_need_no_network(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from restain.data.phantom import PhantomSettings, draw_pair

    for split in ("train", "val"):
        for seed in range(2):
            pair = draw_pair(seed, PhantomSettings(size_px=64))
            for side, rgb in (("A", pair.he), ("B", pair.ihc_aligned)):
                save_image(tmp_path / "pairs" / f"{split}{side}" / f"{seed}.png", rgb)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a network is looked for")

    monkeypatch.chdir(tmp_path)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for words in (
        "train cut-tiny --data pairs --out run --steps 1 --set data.crop_px=32 --set model.width=2",
        f"stain pairs/valA --model {checkpoint} --out virtual --device cpu",
        "evaluate --virtual virtual --real pairs/valB --out figures --html page.html --device cpu",
        "quantify pairs/valB --out cells --marker nuclear --mpp 0.5",
        f"info {checkpoint}",
    ):
        monkeypatch.setattr(sys, "argv", ["restain", *words.split()])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code in (0, None), words
