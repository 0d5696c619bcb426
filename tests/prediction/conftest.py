"""The command with a stub, one process for all tests."""

from collections.abc import Iterator

import pytest
from predict_commands import Commands


@pytest.fixture(scope="session")
def predict(tmp_path_factory) -> Iterator[Commands]:
    commands = Commands(tmp_path_factory.mktemp("cwd"))
    yield commands
    assert commands.process.stdin is not None and commands.process.stdout is not None
    commands.process.stdin.close()
    commands.process.stdout.close()
    commands.process.wait()
