"""A pipeline, servers in this process, and a PostgreSQL where one can be had."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.serving.parts import LiveServer, Workshop, make_runner, make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from joyimage.serving.workers.local import LocalRunner


def _find_postgres() -> Path | None:
    """Return the folder of Debian's newest PostgreSQL programs."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return folders[-1].parent if folders else None


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a PostgreSQL: JOYIMAGE_TEST_POSTGRES, or one started on loopback in a folder of its own."""
    given = os.environ.get("JOYIMAGE_TEST_POSTGRES")
    if given:
        yield given
        return
    programs = _find_postgres()
    if programs is None:
        pytest.skip(
            "no PostgreSQL: JOYIMAGE_TEST_POSTGRES is not set and Debian's programs are not installed"
        )
    folder = Path(f"/tmp/joyimage-pg-{uuid.uuid4().hex[:8]}")
    folder.mkdir(mode=0o700)
    # PostgreSQL rejects to run as root.
    prefix: list[str] = []
    user = "postgres" if _has_user("postgres") else "daemon"
    if os.geteuid() == 0:
        shutil.chown(folder, user)
        prefix = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
    data, password = folder / "data", folder / "password"
    password.write_text(secrets.token_hex(16))
    if prefix:
        shutil.chown(password, user)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def call(*command: object) -> None:
        subprocess.run(
            [*prefix, *map(str, command)],
            check=True,
            capture_output=True,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin"},
        )

    try:
        call(
            programs / "initdb",
            "-D",
            data,
            "-U",
            "tester",
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        )
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        )
        call(programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL can't be started: {getattr(error, 'stderr', error)!r}")
    yield f"postgresql+psycopg://tester:{password.read_text()}@127.0.0.1:{port}/postgres"
    call(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


def _has_user(name: str) -> bool:
    import pwd

    return any(entry.pw_name == name for entry in pwd.getpwall())


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Address of an empty database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield sa.make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@pytest.fixture(scope="session")
def runner() -> LocalRunner:
    """A pipeline that all tests of a process share, one after the other."""
    return make_runner()


@pytest.fixture
def serve(tmp_path: Path, runner: LocalRunner) -> Iterator[Callable[..., LiveServer]]:
    """Start servers with settings of one's own; they are stopped at the end."""
    started: list[LiveServer] = []

    def start(using: object = None, folder: Path = tmp_path, **values: object) -> LiveServer:
        started.append(LiveServer(make_settings(folder, **values), using or runner))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, runner: LocalRunner) -> Iterator[LiveServer]:
    """A server that tests share which leave nothing behind."""
    server = LiveServer(make_settings(tmp_path_factory.mktemp("server")), runner)
    yield server
    server.close()


@pytest.fixture
def workshop(tmp_path: Path, runner: LocalRunner) -> Iterator[Callable[..., Workshop]]:
    """Open workshops that are closed at the end."""
    opened: list[Workshop] = []

    def open_one(using: Any = None, **values: Any) -> Workshop:
        opened.append(Workshop(tmp_path, using or runner, **values))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
