"""What the command line's tests share: a simulator on a port, and the real command in a process."""

import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import frozen
from serving import served

from kling_async.simulator import Simulator, serve

OURS = re.compile("KLING|COMETAPI|EZMODEL").match
"""Whether a variable may be meant for the command."""

Here = Callable[..., tuple[int, str, str]]
"""Runs the command in this process; returns its exit code, stdout and stderr."""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without a word about Kling, whoever runs the tests."""
    for name in tuple(filter(OURS, os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ``in`` of the working directory, with three pictures that have a header and an end."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 400, 300, 8, 2, 0, 0, 0)
    picture = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(picture + name.encode() + b"\0\0\0\0IEND\xaeB`\x82")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def simulator() -> Simulator:
    """A simulator whose videos are placeholders and ready at once."""
    return Simulator(seconds=0.0)


@pytest.fixture
def url(simulator: Simulator) -> Iterator[str]:
    """Where *simulator* is reached, from another thread or process."""
    with served(serve(simulator)) as base_url:
        yield base_url


@frozen
class Command:
    """The real command, in a process of its own."""

    env: dict[str, str]

    def where(self, **variables: str) -> "Command":
        """The same with further variables."""
        return Command(self.env | variables)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Begin to run it."""
        return subprocess.Popen(
            [sys.executable, "-m", "kling_async", *arguments],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def submitted(self, process: "subprocess.Popen[str]", count: int) -> None:
        """Read what *process* tells until *count* tasks are submitted."""
        assert process.stderr is not None
        while count:
            line = process.stderr.readline()
            assert line, "it ended"
            count -= "submitted as task" in line

    def run(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run it to its end."""
        with self.start(*arguments) as process:
            out, err = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def clean_env(no_variables: None) -> dict[str, str]:
    """This environment, for processes."""
    kept = os.environ
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH", ""))))
    return kept | {"PYTHONPATH": path, "COLUMNS": "80", "NO_COLOR": "1"}


@pytest.fixture
def bare_command(clean_env: dict[str, str]) -> Command:
    """The command without a word about Kling in its environment."""
    return Command(clean_env)


@pytest.fixture
def command(url: str, bare_command: Command) -> Command:
    """The command with the environment of *simulator*."""
    return bare_command.where(KLING_API_KEY="sim-key", KLING_BASE_URL=url)


@pytest.fixture
def here(
    quick_time: None, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """The command in this process, with the environment of *simulator*."""
    monkeypatch.setenv("KLING_API_KEY", "sim-key")
    monkeypatch.setenv("KLING_BASE_URL", url)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[int, str, str]:
        from kling_async.cli.app import run as run_here

        code = run_here(arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run
