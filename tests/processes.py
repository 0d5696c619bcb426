"""Python processes for tests, forked from one that has imported what takes seconds.

Importing torch, Detectron2 and the commands takes longer than most of what tests do with them. A
process started here is as one of `python ARGUMENTS` in all but that: its modules are imported
already, for the runtime of this session. A light one has only what the package itself imports, for
tests of what commands answer without the rest. Tests of imports have processes of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


# ---- In the test


class Process:
    """A process that runs: what tests use of `subprocess.Popen`.

    Args:
        arguments: behind `python`: a file, `-m` and a module, or `-c` and code, and theirs.
        output: file that standard output and standard error are added to.
        errors: another file for standard error.
        cwd: where it runs; by default the folder for temporary files.
        environment: variables besides those of this process.
        light: see this module.
        before: code that is executed in it first.

    Attributes:
        seconds: CPU time it has taken, once it has ended.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        output: Path,
        errors: Path | None = None,
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        light: bool = False,
        before: str = "",
    ):
        order = {
            "arguments": list(map(str, arguments)),
            "files": [str(output), str(errors or output)],
            "cwd": str(cwd or tempfile.gettempdir()),
            "environment": _environment(environment),
            "before": before,
        }
        self.output = output
        self.returncode: int | None = None
        self.seconds = 0.0
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_server(light))
        self._answers = self._connection.makefile("rw")
        print(json.dumps(order), file=self._answers, flush=True)
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float = 300) -> int:
        """The exit status, negative after a signal."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            code, seconds = self._answers.readline().split()
            self.returncode, self.seconds = int(code), float(seconds)
            self._answers.close()
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        if self.returncode is None:
            self._connection.settimeout(0)
            try:
                if not self._connection.recv(1, socket.MSG_PEEK):
                    raise EOFError("the process that waits for this one is gone")
            except BlockingIOError:
                return None
        return self.wait()

    def wait_for_line(self, seconds: float = 60) -> str:
        """The first line that it prints."""
        end = time.monotonic() + seconds
        line = ""
        while not line.endswith("\n"):
            assert self.poll() is None and time.monotonic() < end, line
            time.sleep(0.01)
            if self.output.exists():
                with open(self.output) as file:
                    line = file.readline()
        return line.strip()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    arguments: Sequence[object],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 300,
    before: str = "",
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end; what it printed is in stdout and stderr.

    Args:
        before: code that is executed in it first.
        fresh: in a process that imports everything anew, as what it imports is what is tested, or
            as the environment chooses another runtime.
    """
    if fresh:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={"PYTHONPATH": _path(), **_environment(environment)},
            cwd=cwd or tempfile.gettempdir(),
            timeout=timeout,
            capture_output=True,
            text=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "output", Path(folder) / "errors"
        process = Process(arguments, *files, cwd=cwd, environment=environment, before=before)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    return subprocess.CompletedProcess(list(arguments), code, *texts)


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    # TQDM_DISABLE is read when tqdm is imported.
    return {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **(more or {})}


def write_program(folder: Path, name: str = "yolor-d2", *arguments: str) -> Path:
    """A program in a folder for PATH, for what starts it by its name.

    Args:
        name: "yolor-d2", or of a program that takes what `python` takes.
        arguments: of `python`, before those of the program; by default those of `yolor-d2`.
    """
    program = folder / name
    first = arguments or (("-m", "yolor_d2") if name == "yolor-d2" else ())
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import processes\nprocesses.replace({_server()!r}, {first!r})\n"
    )
    program.chmod(0o755)
    return program


def replace(address: str, first: Sequence[str]) -> None:
    """In the program: run, pass signals on, and end as the process that does the work."""
    _addresses[False] = address
    files = (Path(f"/proc/{os.getpid()}/fd/{number}") for number in (1, 2))
    process = Process([*first, *sys.argv[1:]], *files, cwd=Path.cwd())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: process.send_signal(number))
    code = process.wait(timeout=3600)
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


_addresses: dict[bool, str] = {}


def _server(light: bool = False) -> str:
    """Address of the process that others are forked from; started when first needed."""
    if light not in _addresses:
        folder = tempfile.TemporaryDirectory(prefix="yolor_d2_")
        address = os.path.join(folder.name, "socket")
        server = subprocess.Popen(
            [sys.executable, __file__, address, *(["light"] if light else [])],
            env={**_environment(), "PYTHONPATH": _path()},
            stdin=subprocess.PIPE,  # closed with this process
            start_new_session=True,
        )

        def stop() -> None:
            assert server.stdin is not None
            server.stdin.close()
            server.wait(timeout=60)
            folder.cleanup()

        atexit.register(stop)
        end = time.monotonic() + 120
        while not os.path.exists(address):
            assert server.poll() is None and time.monotonic() < end, "no process to fork from"
            time.sleep(0.02)
        _addresses[light] = address
    return _addresses[light]


def _path() -> str:
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


# ---- In the process that others are forked from


def import_commands() -> None:
    """What the commands import, where there is a runtime."""
    import importlib.util

    if importlib.util.find_spec("fvcore") is None:
        return
    import matplotlib

    from yolor_d2 import cli

    matplotlib.use("agg")
    for command in cli.COMMANDS.values():
        importlib.import_module(f"yolor_d2.commands.{command.module}")


def serve(address: str) -> dict | None:
    """Fork a process for each order that comes; returns in that process, with the order."""
    import select

    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{address}.new")
    server.listen(64)
    os.rename(f"{address}.new", address)
    while True:
        ready, _, _ = select.select([server, sys.stdin], [], [], 1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if sys.stdin in ready:
            return None
        if server in ready:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                return follow(connection)
            connection.close()


def follow(connection: socket.socket) -> dict | None:
    """Start one process and tell how it ends; returns in that process."""
    stream = connection.makefile("rw")
    order = json.loads(stream.readline())
    child = os.fork()
    if child == 0:
        stream.close()
        connection.close()
        os.setsid()
        return order
    print(child, file=stream, flush=True)
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    with contextlib.suppress(BrokenPipeError):  # the test is over
        print(os.waitstatus_to_exitcode(status), seconds, file=stream, flush=True)
    os._exit(0)


def become(order: dict) -> None:
    """Run what `python ARGUMENTS` runs."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, name in enumerate(order["files"], start=1):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    first, *rest = order["arguments"]
    given = order["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in given if path and path not in sys.path]
    exec(order["before"], {})
    if first in ("-m", "-c"):
        name, *rest = rest
        sys.path.insert(0, "")
        sys.argv = [first, *rest]
        if first == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(name, "<string>", "exec"), vars(main))
    else:
        sys.path.insert(0, os.path.dirname(first))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def finish(order: dict) -> None:
    """`become`, and an end without freeing what was inherited, which takes seconds."""
    code: object = 1
    try:
        become(order)
        code = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
        code = code if isinstance(code, int) else int(code is not None)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.path.remove(os.path.dirname(__file__))
    gc.disable()  # while importing, where it costs a second and finds next to nothing
    if sys.argv[2:] == ["light"]:
        import yolor_d2.cli  # noqa: F401
    else:
        import_commands()
    gc.collect()
    gc.freeze()  # else the first collection of a child copies what it shares with this process
    gc.enable()
    todo = serve(sys.argv[1])
    if todo is not None:
        finish(todo)
