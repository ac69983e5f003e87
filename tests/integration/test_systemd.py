"""The unit under a real systemd: installed as docs/operations.md says, on a machine of its own."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from anyio import to_thread

from brokers.tansu import Tansu
from harness.api import Api, Call
from harness.daemon import Daemon, until
from harness.machine import REPOSITORY, Machine, require_machine
from harness.stream import Stream, make_stream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]  # a busy machine installs it slowly

OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()

# Run in the daemon's place: first what it needs, some of it for kafka.sasl.token_command, then what
# would be granted to any other process without privileges. A line of JSON with the answer to each.
PROBE = """
import ctypes, errno, json, mmap, os, signal, socket, ssl, subprocess, threading
import cramjam

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def own_file():
    open("/tmp/own", "w").close()
    return "/tmp/own"

tried = {
    "process": lambda: subprocess.run(["/bin/true"], check=True, timeout=10),
    "thread": lambda: threading.Thread(target=int).start(),
    "tls": ssl.create_default_context,
    "zstd": lambda: cramjam.zstd.compress(b"x" * 100),
    "nice": lambda: os.nice(1),
    "affinity": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "chown": lambda: os.chown(own_file(), os.getuid(), os.getgid()),
    "setuid file": lambda: os.chmod(own_file(), 0o4700),
    "ptrace": lambda: call("ptrace", 0, 0, 0, 0),
    "personality": lambda: call("personality", 0x0400000),
    "namespace": lambda: call("unshare", 0x10000000),
    "code in data": lambda: mmap.mmap(-1, 4096, prot=7),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
}
answers = {}
for name, attempt in tried.items():
    try:
        attempt()
        answers[name] = "granted"
    except OSError as error:
        answers[name] = errno.errorcode[error.errno]
print(json.dumps(answers), flush=True)
"""
CREDENTIAL = 'headers = { Authorization = { credential = "cms-token", prefix = "Bearer " } }'


def commands(heading: str) -> str:
    """The first console block below a heading of docs/operations.md, as a script."""
    found = re.search(rf"^## {heading}\n.*?^```console\n(.*?)^```", OPERATIONS, re.M | re.S)
    assert found is not None, f"no commands below {heading!r} in docs/operations.md"
    return re.sub("^# ", "", found[1], flags=re.M)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Installed once, which takes half a minute."""
    require_machine()
    with Machine(tmp_path_factory.mktemp("systemd")) as booted:
        booted.run("rm", "-rf", "/opt/sluiced")
        booted.run("bash", "-exc", commands("Install"), directory=REPOSITORY)
        yield booted


@dataclass
class Service:
    """One instance of the unit. `daemon` knows its configuration and its admin port."""

    machine: Machine
    daemon: Daemon
    name: str

    @property
    def unit(self) -> str:
        return f"sluiced@{self.name}.service"

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def show(self, name: str) -> str:
        return self.machine.show(self.unit, name)

    def systemctl(self, *verb: str, check: bool = True) -> str:
        return self.machine.run("systemctl", *verb, self.unit, check=check)

    @property
    def journal(self) -> str:
        return self.machine.journal(self.unit)

    @property
    def warnings(self) -> str:
        """Of the journal, what a person should look at."""
        return self.machine.journal(self.unit, "--priority=warning")

    def inside(self, *command: str) -> str:
        """Runs a command where the daemon is: with its view of the file system."""
        enter = ("nsenter", f"--target={self.pid}", "--mount")
        return self.machine.run(*enter, *command, check=False)

    def process(self, name: str) -> str:
        """A line of the daemon's /proc/PID/status."""
        status = (self.machine.root / f"proc/{self.pid}/status").read_text()
        return status.partition(f"\n{name}:")[2].partition("\n")[0].strip()

    def drop_in(self, text: str) -> None:
        path = self.machine.root / f"etc/systemd/system/{self.unit}.d/test.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self.machine.run("systemctl", "daemon-reload")

    async def until(self, met: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        try:
            with anyio.fail_after(seconds):
                while not met():
                    await anyio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"waited {seconds:.0f} s in vain for: {what}\n{self.journal}")

    async def says(self, *texts: str) -> None:
        """Returns once all of them are in the journal, to which they take different ways."""
        await self.until(lambda: all(text in self.journal for text in texts), f"{texts}")


@pytest.fixture
async def stream(tansu: Tansu, tmp_path: Path) -> Stream:
    return await make_stream(tansu, tmp_path)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with Api() as running:
        yield running


@pytest.fixture
def service(machine: Machine, stream: Stream, api: Api) -> Iterator[Service]:
    """Configured and not started. What it was told by a test is forgotten afterwards."""
    sink = CREDENTIAL.replace("{ Auth", '{ X-Team = { env = "TEAM" }, Auth')
    daemon = stream.daemon(api, sink=sink, dead_letter="max_ratio_window = 20", drain="5s")
    made = Service(machine, daemon, f"pages-{daemon.port}")
    etc = machine.root / "etc/sluiced"
    (etc / f"{made.name}.toml").write_text(daemon.path.read_text())
    (etc / f"{made.name}.env").write_text("TEAM=cms\n")
    (etc / "credentials/cms-token").write_text("s3cret\n")
    drop_in = machine.root / f"etc/systemd/system/{made.unit}.d/credentials.conf"
    drop_in.parent.mkdir()
    drop_in.write_text((REPOSITORY / "systemd/drop-ins/credentials.conf").read_text())
    machine.run("systemctl", "daemon-reload")
    yield made
    machine.run("systemctl", "kill", "--signal=KILL", made.unit, check=False)
    made.systemctl("stop", check=False)


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    units = ("sluiced@.service", "sluiced@pages.service", "sluiced.target", "sluiced.slice")
    assert machine.run("systemd-analyze", "verify", "--man=no", *units) == ""


def test_the_service_is_exposed_no_more_than_1_5(machine: Machine) -> None:
    said = machine.run(
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=15",
        "/etc/systemd/system/sluiced@.service",
    )
    assert "Overall exposure level" in said


async def test_the_first_pipeline_runs_when_the_docs_are_followed_to_the_letter(
    machine: Machine, stream: Stream, api: Api
) -> None:
    home = machine.root / "srv"
    (home / "systemd").symlink_to(REPOSITORY / "systemd")
    (home / "pages.toml").write_text(stream.daemon(api, sink=CREDENTIAL).path.read_text())
    script = commands("A pipeline").replace("journalctl -fu", "journalctl -u")
    await stream.produce(40)
    try:
        said = await to_thread.run_sync(
            lambda: machine.run("bash", "-exc", script, directory=Path("/srv"), stdin="s3cret\n")
        )
        assert f"topic {stream.topic}: 4 partitions" in said, "`check --connect`"
        assert "Active: active (running)" in said
        await until(lambda: len(api.delivered()) == 40, "40 records")
        assert api.calls[0].headers["Authorization"] == "Bearer s3cret"
    finally:
        machine.run("systemctl", "disable", "--now", "sluiced@pages", check=False)


async def test_start_returns_when_it_is_ready_and_stop_when_all_is_committed(
    service: Service, stream: Stream, api: Api
) -> None:
    await stream.produce(400)
    service.systemctl("start")
    assert service.show("ActiveState") == "active"
    assert service.show("WatchdogUSec") == "1min"
    for path in ("/", "/page.js", "/page.css"):
        assert (await service.daemon.get(path))[0] == 200, "the page's files are in the package"
    await service.until(lambda: len(api.delivered()) == 400, "400 records")
    assert api.calls[0].headers["Authorization"] == "Bearer s3cret"
    assert api.calls[0].headers["X-Team"] == "cms", "from the environment file"
    service.systemctl("stop")
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert sum((await stream.checkpoints()).values()) == 400
    await service.says("window     closes at 100 records")  # the summary of `check`
    assert "s3cret" not in service.journal


async def test_a_drain_may_take_longer_than_the_unit_allows_for(
    service: Service, stream: Stream, api: Api
) -> None:
    release = anyio.Event()

    async def hold(_: Call) -> web.Response | None:
        await release.wait()
        return None

    api.answer = hold
    path = service.machine.root / f"etc/sluiced/{service.name}.toml"
    path.write_text(path.read_text().replace('drain = "5s"', 'drain = "60s"'))
    service.drop_in("[Service]\nTimeoutStopSec=3\n")
    await stream.produce(4)
    service.systemctl("start")
    await service.until(lambda: api.calls, "a request")
    began = time.monotonic()
    service.systemctl("stop", "--no-block")
    await service.until(lambda: time.monotonic() - began > 5, "more than TimeoutStopSec")
    release.set()
    await service.until(lambda: service.show("ActiveState") == "inactive", "the end of the drain")
    assert service.show("Result") == "success"
    assert sum((await stream.checkpoints()).values()) == 4


async def test_check_knows_the_times_that_the_unit_with_its_drop_ins_allows_for(
    service: Service,
) -> None:
    file = f"/etc/sluiced/{service.name}.toml"
    check = ("bash", "-c", f"/opt/sluiced/bin/sluiced check {file} 2>&1")
    secrets = ("env", "TEAM=a", "CREDENTIALS_DIRECTORY=/etc/sluiced/credentials")
    assert "its unit has" not in service.machine.run(*secrets, *check, check=False)
    service.drop_in("[Service]\nType=exec\nNotifyAccess=none\nWatchdogSec=0\nTimeoutStopSec=10\n")
    said = service.machine.run(*secrets, *check, check=False)
    assert "warning: shutdown.drain = 5s: its unit has TimeoutStopSec = 10s" in said, said


async def test_it_runs_as_its_own_user_behind_a_seccomp_filter_and_without_any_privilege(
    service: Service,
) -> None:
    service.systemctl("start")
    uid = service.machine.run("id", "-u", "sluiced").strip()
    assert service.inside("stat", "--format=%u", f"/proc/{service.pid}").strip() == uid
    assert service.process("Seccomp") == "2"
    assert service.process("NoNewPrivs") == "1"
    assert service.process("CapBnd").strip("0") == ""
    assert service.process("Umask") == "0077"
    limits = (service.machine.root / f"proc/{service.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)


async def test_system_calls_that_it_never_makes_are_refused_and_those_it_makes_are_not(
    service: Service,
) -> None:
    (service.machine.root / "srv/probe.py").write_text(PROBE)
    run = "ExecStart=/opt/sluiced/bin/python /srv/probe.py"
    service.drop_in(f"[Service]\nType=exec\nRestart=no\nExecStartPre=\nExecStart=\n{run}\n")
    service.systemctl("start")
    await service.until(lambda: re.search(r"^{.*}$", service.journal, re.M), "its answers")
    [line] = re.findall(r"^{.*}$", service.journal, re.M)
    needed = dict.fromkeys(("process", "thread", "tls", "zstd"), "granted")
    assert json.loads(line) == needed | {
        "nice": "EPERM",
        "affinity": "EPERM",
        "chown": "EPERM",
        "setuid file": "EPERM",
        "ptrace": "EPERM",
        "personality": "EPERM",
        "namespace": "EPERM",
        "code in data": "EPERM",
        "netlink": "EAFNOSUPPORT",
    }


async def test_configurations_are_for_the_daemon_to_read_and_stored_secrets_are_not(
    service: Service,
) -> None:
    service.systemctl("start")
    directories = ("/etc/sluiced", "/etc/sluiced/credentials")
    modes = service.machine.run("stat", "--format=%A %U:%G", *directories).splitlines()
    assert modes == ["drwxr-x--- root:sluiced", "drwx------ root:root"]
    mine = service.inside("bash", "-c", f"cat /run/credentials/{service.unit}/*")
    assert mine == "s3cret\n", "what LoadCredential= has loaded"


async def test_nothing_can_be_written_and_homes_are_out_of_sight(service: Service) -> None:
    service.systemctl("start")
    for path in ("/etc/sluiced/x", "/opt/sluiced/x", "/var/lib/x"):
        assert "Read-only file system" in service.inside("touch", path)
    assert service.inside("ls", "-A", "/root", "/home").split() == ["/home:", "/root:"]


async def test_a_reload_reaches_the_daemon_that_goes_on_running(
    service: Service, stream: Stream, api: Api
) -> None:
    refusing = True

    async def refuse(_: Call) -> web.Response | None:
        return web.Response(status=400) if refusing else None

    api.answer = refuse
    await stream.produce(40)
    service.systemctl("start")
    before = service.pid
    await service.until(lambda: "pipeline_halted" in service.journal, "the halt")
    refusing = False
    service.systemctl("reload")
    await service.until(lambda: api.accepted, "a delivery after the halt was lifted")
    assert (service.pid, service.show("ActiveState")) == (before, "active")
    warnings = service.warnings.splitlines()
    assert any("pipeline_halted" in line for line in warnings)
    assert not any('"level": "info"' in line for line in warnings)
    assert not any(line.startswith("<") for line in warnings), "the journal takes priorities off"


async def test_a_daemon_that_hangs_is_ended_with_its_stack_in_the_journal_and_started_anew(
    service: Service,
) -> None:
    service.drop_in("[Service]\nWatchdogSec=6\nRestartSec=0\n")
    service.systemctl("start")
    hung = service.pid
    service.machine.run("kill", f"-{signal.SIGSTOP}", str(hung))
    await service.until(lambda: service.show("NRestarts") == "1", "a restart")
    await service.until(lambda: service.show("ActiveState") == "active", "a new start")
    assert service.pid != hung
    await service.says("Watchdog timeout", "Fatal Python error: Aborted", "most recent call first")


async def test_a_crash_is_started_again_and_a_bad_configuration_is_not(service: Service) -> None:
    service.drop_in("[Service]\nRestartSec=0\n")
    service.systemctl("start")
    service.machine.run("kill", "-KILL", str(service.pid))
    await service.until(lambda: service.show("NRestarts") == "1", "a restart")
    await service.until(lambda: service.show("ActiveState") == "active", "a new start")
    service.systemctl("stop")
    (service.machine.root / f"etc/sluiced/{service.name}.toml").write_text("name = 3\n")
    service.systemctl("start", check=False)
    await service.until(lambda: service.show("ActiveState") == "failed", "it to be given up")
    assert service.show("ExecMainStatus") == "2"
    await service.says("name = 3: expected a string")
    assert "Traceback" not in service.journal


async def test_all_pipelines_of_a_machine_start_and_stop_with_the_target(service: Service) -> None:
    service.systemctl("enable")
    service.machine.run("systemctl", "start", "sluiced.target")
    await service.until(lambda: service.show("ActiveState") == "active", "the start")
    assert service.show("Slice") == "sluiced.slice"
    service.machine.run("systemctl", "stop", "sluiced.target")
    await service.until(lambda: service.show("ActiveState") == "inactive", "the stop")
    service.systemctl("disable")
