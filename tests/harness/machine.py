"""A machine with a systemd of its own: a container over this machine's root directory.

What is written there goes to memory and is gone afterwards. The network is shared, so that a
service inside reaches the test's broker and API on loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Self

import psutil

from harness.tools import require

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BOOT_SECONDS = 60.0
PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}  # Debian's own programs

# The overlay lives and dies with the mount namespace that this runs in. Debian's services are of no
# interest here: basic.target is a machine with a journal and nothing else.
_BOOT = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1"/root "$1"/upper "$1"/work
mount -t overlay overlay -o lowerdir=/,upperdir="$1"/upper,workdir="$1"/work "$1"/root
tr -d - < /proc/sys/kernel/random/uuid > "$1"/root/etc/machine-id
exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit \
  --directory="$1"/root --bind-ro="$2" --link-journal=no --console=pipe \
  -- /lib/systemd/systemd --unit=basic.target
"""


class Machine:
    """Booted within `with`; commands are run in it as root.

    `directory` has to exist and is used as a mount point and for the console's log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = ExitStack()
        self._init: psutil.Process

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            log = starting.enter_context((self._directory / "console.log").open("wb"))
            self._init = self._boot(starting, log)
            self._await_boot()
            self._running = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def root(self) -> Path:
        """The machine's root directory, as it can be reached from here."""
        return Path(f"/proc/{self._init.pid}/root")

    def run(
        self, *command: str, directory: Path = Path("/"), stdin: str = "", check: bool = True
    ) -> str:
        """Runs a command in it; its output. Fails with that output where `check` is set."""
        enter = ["nsenter", f"--target={self._init.pid}", "--all", "--wd"]
        done = subprocess.run(
            [*enter, "env", f"--chdir={directory}", *command],
            env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | PATH,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, as `systemctl show` has it."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self, unit: str, *options: str) -> str:
        plain = ("--quiet", "--no-pager", "--output=cat", f"--unit={unit}")
        return self.run("journalctl", *plain, *options)

    def _boot(self, starting: ExitStack, log: IO[bytes]) -> psutil.Process:
        mount_point = self._directory / "machine"
        mount_point.mkdir()
        script = ["bash", "-c", _BOOT, "boot", str(mount_point), str(REPOSITORY)]
        nspawn = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", *script],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        starting.callback(nspawn.wait)
        starting.callback(nspawn.kill)
        parent, deadline = psutil.Process(nspawn.pid), time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and nspawn.poll() is None:
            # nspawn has a child of its own name until that becomes the container's first process.
            for child in parent.children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # the script's programs come and go
                    if child.name() == "systemd":
                        starting.callback(_kill, child)
                        return child
            time.sleep(0.02)
        console = (self._directory / "console.log").read_text(errors="replace")
        raise AssertionError(f"systemd was not started in a container: {console}")

    def _await_boot(self) -> None:
        deadline, state = time.monotonic() + BOOT_SECONDS, ""
        while time.monotonic() < deadline:
            state = self.run("systemctl", "is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                return
            time.sleep(0.05)
        raise AssertionError(f"the machine did not boot in {BOOT_SECONDS:.0f} s: {state}")


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def require_machine() -> None:
    """Skips the test, or fails it in CI, where such a machine cannot be had."""
    if os.geteuid() != 0:
        require("root", found=False, why="a container with systemd is started as root")
    for tool in ("systemd-nspawn", "unshare", "nsenter"):
        require(tool, found=shutil.which(tool) is not None)
