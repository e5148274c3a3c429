"""Databases and files of older servers continue to work."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from joyimage.errors import InvalidInputError, ServerError
from joyimage.serving.jobs.clock import SteadyClock
from joyimage.serving.jobs.store import JobStore
from joyimage.serving.jobs.task import Task
from tests.serving.parts import LiveServer, ended, opened

if TYPE_CHECKING:
    from collections.abc import Callable

OLD = json.loads((Path(__file__).parent / "golden" / "before_schema_versions.json").read_text())
JSON_COLUMNS = ("task", "result", "error")


def leave_old_server(url: str, folder: Path, *, without: str = "") -> list[dict[str, Any]]:
    """Put the database and the files of the older server in their places, as if it had just died."""
    for name, data in OLD["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(base64.b64decode(data))
    engine = sa.create_engine(url)
    shift = time.time() - max(row["created_at"] for row in OLD["rows"])
    rows = [
        {
            name: value + shift if name.endswith("_at") and value is not None else value
            for name, value in row.items()
            if name != without
        }
        for row in OLD["rows"]
    ]
    with engine.begin() as connection:
        for statement in OLD["schema"]:
            lines = [line for line in statement.splitlines() if not (without and f"\t{without} " in line)]
            connection.exec_driver_sql("\n".join(lines))
        table = sa.Table("joyimage_jobs", sa.MetaData(), autoload_with=connection)
        connection.execute(table.insert(), rows)
    engine.dispose()
    return rows


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    return request.getfixturevalue("postgres_url")


def test_old_server_when_upgraded_then_its_jobs_run_and_its_results_are_there(
    database: str, tmp_path: Path, serve: Callable[..., LiveServer]
) -> None:
    rows = leave_old_server(database, tmp_path)
    server = serve(database=database)

    with server.client() as client:
        records = [ended(client, row) for row in rows]
        old = [client.get(f"/v1/jobs/{rows[number]['id']}/images/0").content for number in (0, 1)]
        images = [client.get(record["images"][0]) for record in records if record["images"]]

    assert [record["state"] for record in records] == [
        "succeeded",
        "succeeded",
        "succeeded",
        "cancelled",
        *["succeeded"] * 6,
    ], [record["error"] for record in records]
    assert [base64.b64encode(data).decode() for data in old] == [
        OLD["files"][f"jobs/{rows[number]['id']}/output-0"] for number in (0, 1)
    ]
    assert records[2]["restarted"] == 1
    assert [(record["seed"], record["steps"]) for record in records[:2]] == [(5, 2), (0, 2)]
    assert records[4]["edit"]["size"] == "96x64"
    assert records[5]["edit"]["negative_prompt"] == "dark"
    assert records[6]["edit"]["box"] == [10, 10, 40, 50]
    assert "rear left" in records[7]["prompt"]
    assert isinstance(records[9]["text"], str)
    assert all(opened(image.content).size for image in images)


def test_old_database_when_it_lacks_a_column_then_it_gets_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    rows = leave_old_server(url, tmp_path, without="batch_key")

    store = JobStore(url, SteadyClock(), 100)

    store.check()
    assert len(store.list()) == len(rows)
    store.close()


def test_old_database_when_upgraded_then_every_row_is_a_task_and_a_second_start_changes_nothing(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    leave_old_server(url, tmp_path)
    first = JobStore(url, SteadyClock(), 100)
    jobs, name = first.list(), first.database_id
    first.close()
    second = JobStore(url, SteadyClock(), 100)

    assert (second.list(), second.database_id) == (jobs, name)
    assert [Task.from_dict(job.task).kind for job in jobs] == [job.kind for job in jobs]
    second.close()


def test_database_when_of_a_newer_version_then_one_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    JobStore(url, SteadyClock(), 100).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE joyimage_schema SET version_num = '999'")
    engine.dispose()

    with pytest.raises(InvalidInputError, match="newer version of joyimage"):
        JobStore(url, SteadyClock(), 100)


def test_database_when_it_is_no_database_then_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"this is no database at all" * 100)

    with pytest.raises(ServerError, match="cannot be opened: file is not a database"):
        JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite3'}", SteadyClock(), 100)
