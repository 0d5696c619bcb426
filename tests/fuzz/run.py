"""Call a target on many inputs, until the time is up or it fails.

    python tests/fuzz/run.py coco --seconds 600

With atheris (pip install atheris) inputs are chosen by what they reach; without it, or with
--random, they are random. An input may take 10 seconds, and the process 2 GB. What fails is kept in
a file `crash-*`; give that in place of --seconds to see it again.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import time
from pathlib import Path

MAX_SECONDS, MAX_MEGABYTES = 10, 2048


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "target", choices=["coco", "labels", "masks", "config", "checkpoint", "augmentation"]
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--random", action="store_true", help="do without atheris")
    parser.add_argument("--input", type=Path, help="a file that failed, to be called once")
    return parser.parse_args()


def peak_megabytes() -> float:
    """The largest memory of this process so far."""
    try:  # what the system says of its usage begins with the peak of the process that started it
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def call_randomly(target, seconds: float, seed: int = 0) -> int:
    """Call a target on random inputs; returns how many. What fails is raised."""
    rng = random.Random(seed)

    def too_long(*_: object) -> None:
        raise TimeoutError(f"an input takes more than {MAX_SECONDS} seconds")

    signal.signal(signal.SIGALRM, too_long)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = rng.randbytes(rng.choice([0, 8, 32, 128, 512]))
        signal.alarm(MAX_SECONDS)
        try:
            target(data)
        except BaseException:
            path = Path(f"crash-{target.__name__}-{count}")
            path.write_bytes(data)
            print(f"failed on {path}", file=sys.stderr)
            raise
        finally:
            signal.alarm(0)
        count += 1
        used = peak_megabytes()
        if used > MAX_MEGABYTES:
            raise MemoryError(f"{used:.0f} MB are used after input {count}")
    return count


def main() -> None:
    args = parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is None or args.random or args.input:
        from fuzz.targets import TARGETS

        target = TARGETS[args.target]
        if args.input:
            target(args.input.read_bytes())
        else:
            print(f"{call_randomly(target, args.seconds)} random inputs, no failure")
        return
    with atheris.instrument_imports(include=["yolor_d2"]):
        from fuzz.targets import TARGETS
    limits = [f"-max_total_time={args.seconds}", f"-timeout={MAX_SECONDS}"]
    memory = [f"-rss_limit_mb={MAX_MEGABYTES}", "-max_len=1024"]
    atheris.Setup([sys.argv[0], *limits, *memory], TARGETS[args.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
