"""The job store: order, room, idempotency, putting back; on SQLite, and on PostgreSQL where one is found."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import OperationalError

from joyimage.errors import IdempotencyConflictError
from joyimage.serving.jobs.limits import LimitError, QueueLimits
from joyimage.serving.jobs.records import Job
from joyimage.serving.jobs.store import JobStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOM = QueueLimits(queue_size=1000, client_jobs=1000)


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, time: Time) -> Iterator[JobStore]:
    """An empty store."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    else:
        url = request.getfixturevalue("postgres_url")
    store = JobStore(url, time, keep_s=100)
    yield store
    store.close()


def make_job(name: str, client: str = "a", **values: Any) -> Job:
    job_id = name.encode().hex().rjust(32, "0")
    return Job(
        id=job_id, client=client, kind="edit", **{"task": {"name": name}, "request_hash": name, **values}
    )


def submit(store: JobStore, *names: str, client: str = "a", **values: Any) -> list[Job]:
    return [store.submit(make_job(name, client, **values), ROOM)[0] for name in names]


def run_all(store: JobStore) -> str:
    order = ""
    while claimed := store.claim("me"):
        order += claimed[0].task["name"]
    return order


def test_job_when_submitted_claimed_and_finished_then_the_record_says_so(store: JobStore, time: Time) -> None:
    (job,) = submit(store, "x")
    assert store.position(job) == 0
    time.now += 5

    (running,) = store.claim("me")
    finished = store.finish(job.id, "me", "succeeded", result={"seed": 3})

    assert (running.state, running.started_at) == ("running", 1005.0)
    assert finished is not None
    assert finished == store.get(job.id)
    assert (finished.state, finished.result, finished.expires_at) == ("succeeded", {"seed": 3}, 1105.0)
    assert store.claim("me") == []
    assert store.finish(job.id, "me", "failed") is None


def test_finish_when_another_server_runs_the_job_then_nothing_changes(store: JobStore) -> None:
    (job,) = submit(store, "x")
    store.claim("thought dead")
    store.requeue("thought dead")
    (running,) = store.claim("alive")

    assert store.finish(job.id, "thought dead", "succeeded", result={"seed": 1}) is None
    assert store.get(job.id) == running

    finished = store.finish(job.id, "alive", "succeeded", result={"seed": 2})
    assert finished is not None
    assert finished.result == {"seed": 2}


def test_clients_when_one_has_many_jobs_then_they_take_turns(store: JobStore) -> None:
    submit(store, *"abcde")
    assert store.claim("me")[0].task["name"] == "a"
    submit(store, *"vwx", client="b")
    submit(store, "z", client="c")

    assert run_all(store) == "vzbwcxde"


def test_queue_when_full_then_429_and_a_place_when_one_is_claimed(store: JobStore) -> None:
    for name in "ab":
        store.submit(make_job(name), QueueLimits(queue_size=2, client_jobs=9))

    with pytest.raises(LimitError, match="queue is full") as rejection:
        store.submit(make_job("c"), QueueLimits(queue_size=2, client_jobs=9))
    store.claim("me")
    store.submit(make_job("d"), QueueLimits(queue_size=2, client_jobs=9))

    assert rejection.value.code == "queue_full"


def test_client_when_it_has_its_share_then_429_for_it_alone(store: JobStore) -> None:
    store.submit(make_job("a"), QueueLimits(queue_size=9, client_jobs=1))
    store.claim("me")

    with pytest.raises(LimitError) as rejection:
        store.submit(make_job("b"), QueueLimits(queue_size=9, client_jobs=1))

    assert rejection.value.code == "too_many_jobs"
    store.submit(make_job("c", "b"), QueueLimits(queue_size=9, client_jobs=1))


def test_idempotency_key_when_used_again_then_the_same_job_and_another_request_is_rejected(
    store: JobStore,
) -> None:
    first, is_new = store.submit(make_job("a", idempotency_key="k"), ROOM)
    again, is_again_new = store.submit(make_job("b", idempotency_key="k", request_hash="a"), ROOM)

    assert (is_new, is_again_new) == (True, False)
    assert again == first
    with pytest.raises(IdempotencyConflictError):
        store.submit(make_job("c", idempotency_key="k"), ROOM)
    assert store.submit(make_job("d", "b", idempotency_key="k"), ROOM)[1]


def test_claim_when_many_threads_then_each_job_once(store: JobStore) -> None:
    submit(store, *[f"job{number}" for number in range(40)])
    claimed: list[str] = []

    def work(owner: str) -> None:
        while jobs := store.claim(owner, lambda _: 3):
            claimed.extend(job.id for job in jobs)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claimed) == len(set(claimed)) == 40


def test_claim_when_jobs_are_alike_then_together_and_in_order(store: JobStore) -> None:
    submit(store, "a", batch_key="x")
    submit(store, "b", batch_key="y")
    submit(store, "c", "d", "e", batch_key="x")

    assert [job.task["name"] for job in store.claim("me", lambda _: 3)] == ["a", "c", "d"]
    assert [job.task["name"] for job in store.claim("me", lambda _: 3)] == ["b"]
    assert [job.task["name"] for job in store.claim("me", lambda _: 3)] == ["e"]


def test_job_when_its_server_dies_then_run_again_once_and_failed_the_second_time(store: JobStore) -> None:
    (job,) = submit(store, "a")
    store.claim("first")

    (again,) = store.requeue("first")
    assert (again.state, again.restarted) == ("queued", 1)
    assert store.requeue("first") == []
    store.claim("second")
    (failed,) = store.requeue("second")

    assert (failed.state, failed.restarted) == ("failed", 1)
    assert "died twice" in (failed.error or {})["message"]
    assert store.get(job.id) == failed


def test_job_when_its_server_dies_and_no_one_wants_it_then_it_is_not_run(store: JobStore) -> None:
    (cancelled,) = submit(store, "a")
    submit(store, "b", is_awaited=True)
    store.claim("me")
    store.claim("me")
    store.cancel(cancelled.id)

    assert sorted(job.state for job in store.requeue("me")) == ["cancelled", "failed"]
    assert store.claim("me") == []


def test_job_when_server_stops_in_order_then_it_does_not_count(store: JobStore) -> None:
    submit(store, "a")
    for _ in range(3):
        store.claim("me")
        (job,) = store.requeue("me", is_counted=False)

        assert (job.state, job.restarted) == ("queued", 0)


def test_cancel_when_waiting_then_at_once_and_when_running_then_asked(store: JobStore) -> None:
    first, second = submit(store, "a", "b")
    store.claim("me")

    running, waiting = store.cancel(first.id), store.cancel(second.id)

    assert running is not None
    assert waiting is not None
    assert (running.state, running.cancel_asked, waiting.state) == ("running", True, "cancelled")
    assert store.cancelled_among([first.id, second.id]) == {first.id}
    assert store.claim("me") == []
    assert store.cancel("0" * 32) is None


def test_record_when_its_time_is_over_then_gone(store: JobStore, time: Time) -> None:
    first, second = submit(store, "a", "b")
    store.claim("me")
    store.finish(first.id, "me", "succeeded")
    time.now += 99
    assert store.remove_expired() == []
    time.now += 2

    assert store.remove_expired() == [first.id]
    assert store.ids([first.id, second.id]) == {second.id}


def test_job_when_it_waits_too_long_then_failed(store: JobStore, time: Time) -> None:
    submit(store, "a")
    time.now += 61

    (job,) = store.fail_overdue(60)

    assert (job.state, (job.error or {})["code"]) == ("failed", "queue_timeout")


def test_list_when_asked_then_newest_first_own_only_and_in_pages(store: JobStore) -> None:
    jobs = submit(store, *"abc")
    submit(store, "z", client="b")

    assert [job.task["name"] for job in store.list("a", limit=2)] == ["c", "b"]
    assert [job.task["name"] for job in store.list("a", after=jobs[1].id)] == ["a"]
    assert [job.task["name"] for job in store.list(None)] == ["z", "c", "b", "a"]
    assert store.counts()["queued"] == 4
    assert store.get(jobs[0].id, "b") is None


def test_records_when_opened_again_then_all_there(store: JobStore, tmp_path: Path, time: Time) -> None:
    (job,) = submit(store, "a", idempotency_key="k")
    url = str(store.database.engine.url.render_as_string(hide_password=False))
    store.close()

    other = JobStore(url, time, keep_s=100)

    assert other.get(job.id) == job
    other.close()


def test_get_when_the_job_is_another_clients_then_none(store: JobStore) -> None:
    (job,) = submit(store, "x", client="a")

    assert store.get(job.id, "b") is None
    assert store.get(job.id, "a") == store.get(job.id) is not None


def test_clients_when_one_has_large_jobs_then_turns_go_by_cost(store: JobStore) -> None:
    submit(store, "A", "B", "C", client="a", cost=100)
    assert store.claim("me")[0].task["name"] == "A"
    submit(store, *"uvwxyz", client="b", cost=1)

    assert run_all(store) == "uvwxyzBC"


def test_client_when_it_sends_one_large_job_after_another_then_others_get_as_much_of_the_device(
    store: JobStore,
) -> None:
    submit(store, "A", client="a", cost=3)
    submit(store, *"uvwxyz", client="b", cost=1)
    order = ""
    names = iter("BCDEFG")
    while job := next(iter(store.claim("me")), None):
        order += job.task["name"]
        store.finish(job.id, "me", "succeeded")
        if job.client == "a" and len(order) < 8:  # it asks for the next one as soon as it has this one
            submit(store, next(names), client="a", cost=3)

    assert order == "AuvwxByzC"


def test_client_when_it_cancels_jobs_that_wait_then_they_cost_nothing(store: JobStore) -> None:
    submit(store, "A", client="c", cost=1)
    large = submit(store, "B", client="a", cost=100)[0]
    store.cancel(large.id)
    submit(store, "x", "y", client="b", cost=1)
    submit(store, "C", client="a", cost=1)

    assert run_all(store) == "AxCy"


@pytest.mark.parametrize("code", ["out_of_memory", "storage_full", "server_stopped", "queue_timeout"])
def test_idempotency_key_when_its_job_failed_for_a_passing_reason_then_the_next_request_runs(
    store: JobStore, code: str
) -> None:
    (first,) = submit(store, "a", idempotency_key="k")
    store.claim("me")
    store.finish(first.id, "me", "failed", error={"message": "x", "code": code})

    again, is_new = store.submit(make_job("b", idempotency_key="k", request_hash="a"), ROOM)

    assert is_new
    assert again.id != first.id
    assert store.submit(make_job("c", idempotency_key="k", request_hash="a"), ROOM) == (again, False)


def test_idempotency_key_when_its_job_failed_by_itself_then_the_failure_is_the_answer(
    store: JobStore,
) -> None:
    (first,) = submit(store, "a", idempotency_key="k")
    store.claim("me")
    store.finish(first.id, "me", "failed", error={"message": "x", "code": "invalid_value"})

    again, is_new = store.submit(make_job("b", idempotency_key="k", request_hash="a"), ROOM)

    assert (again.id, is_new) == (first.id, False)


def test_ids_when_there_are_more_than_a_statement_may_name_then_found(store: JobStore) -> None:
    (job,) = submit(store, "a")
    among = [f"{number:032x}" for number in range(66_000)]  # 65,535 is PostgreSQL's limit

    assert store.ids([*among, job.id]) == {job.id}
    assert store.unfinished_among([*among[:1000], job.id]) == {job.id}
    assert store.cancelled_among([*among[:1000], job.id]) == set()


def test_client_when_its_images_fill_its_share_then_429_until_it_deletes(store: JobStore) -> None:
    limits = QueueLimits(queue_size=10, client_jobs=10, client_bytes=100)
    first, _ = store.submit(make_job("a", stored_bytes=80), limits)
    with pytest.raises(LimitError, match="Delete jobs") as rejected:
        store.submit(make_job("b", stored_bytes=30), limits)
    store.submit(make_job("c", "other", stored_bytes=30), limits)
    store.claim("me")
    store.finish(first.id, "me", "succeeded", result={"num_images": 1}, stored_bytes=90)
    with pytest.raises(LimitError):
        store.submit(make_job("b", stored_bytes=30), limits)

    store.drop_results(first.id)

    assert rejected.value.code == "storage_quota"
    assert store.submit(make_job("b", stored_bytes=30), limits)[1]


def test_storage_when_full_then_429_for_everybody(store: JobStore) -> None:
    limits = QueueLimits(queue_size=10, client_jobs=10, stored_bytes=100)
    store.submit(make_job("a", stored_bytes=80), limits)

    with pytest.raises(LimitError, match="storage is full"):
        store.submit(make_job("b", "other", stored_bytes=30), limits)


def test_client_when_it_had_the_device_for_its_share_of_the_hour_then_429_until_it_has_passed(
    store: JobStore, time: Time
) -> None:
    limits = QueueLimits(queue_size=10, client_jobs=10, client_device_s=60)
    first, _ = store.submit(make_job("a"), limits)
    store.claim("me")
    store.finish(first.id, "me", "succeeded", device_s=61)
    with pytest.raises(LimitError) as rejected:
        store.submit(make_job("b"), limits)
    store.submit(make_job("c", "other"), limits)

    time.now += 3601

    assert rejected.value.code == "device_quota"
    assert store.submit(make_job("b"), limits)[1]


def test_queue_when_others_fill_it_then_a_client_without_jobs_gets_one_in(store: JobStore) -> None:
    limits = QueueLimits(queue_size=2, client_jobs=10)
    store.submit(make_job("a"), limits)
    store.submit(make_job("b"), limits)

    assert store.submit(make_job("c", "other"), limits)[1]
    for client in ("a", "other"):
        with pytest.raises(LimitError) as rejected:
            store.submit(make_job("d", client), limits)
        assert rejected.value.code == "queue_full"


def test_downtime_when_skipped_then_no_deadline_has_moved(store: JobStore, time: Time) -> None:
    done, waiting = submit(store, "a", "b")
    store.claim("me")
    store.finish(done.id, "me", "succeeded")
    store.heartbeat()

    for jump in (25 * 3600.0, -50 * 3600.0):
        time.now += jump
        assert store.skip_downtime() == jump
        assert store.remove_expired() == []
        assert store.fail_overdue(10) == []
    time.now += 50
    assert [job.id for job in store.fail_overdue(10)] == [waiting.id]
    time.now += 51
    assert store.remove_expired() == [done.id]


def test_sqlite_file_when_made_then_for_this_user_only_and_when_deleted_then_every_call_fails(
    tmp_path: Path, time: Time
) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.touch(mode=0o644)
    store = JobStore(f"sqlite:///{path}", time, keep_s=100)
    submit(store, "a")
    modes = {one.name: one.stat().st_mode & 0o777 for one in tmp_path.iterdir()}
    path.unlink()

    with pytest.raises(OperationalError, match="deleted or replaced"):
        submit(store, "b")
    with pytest.raises(OperationalError, match="deleted or replaced"):
        store.check()
    assert set(modes.values()) == {0o600}, modes
    assert not path.exists()
    store.close()
