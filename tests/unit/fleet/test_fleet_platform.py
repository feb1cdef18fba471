"""A platform's processes: none is there that it does not know."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from mitai.fleet import platform as platforms
from mitai.fleet.home import Home
from mitai.fleet.platform import Platform


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_process_is_being_started_leaves_none_behind(tmp_path, monkeypatch, number):
    start, platform = platforms.start_process, Platform(Home(tmp_path))

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), number)
        return start(*arguments, **options)

    monkeypatch.setattr(platforms, "start_process", interrupted)
    former = signal.signal(number, lambda *_: sys.exit(3))
    try:
        with pytest.raises(SystemExit):
            platform.run("one", "http.server", ["0", "--bind", "127.0.0.1"], "")
    finally:
        signal.signal(number, former)
    assert signal.getsignal(number) is former
    popen = platform.processes["one"].popen
    popen.terminate()
    assert popen.wait(60) == -signal.SIGTERM
