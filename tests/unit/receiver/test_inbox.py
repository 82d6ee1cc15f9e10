"""Both inboxes keep one promise: one caller gets an id, a finished id stays done, a lost claim comes back."""

import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.receiver import Claim, Inbox, MemoryInbox, SqliteInbox, Standing
from tests.house.files import ROOT

LEASE = 30.0
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_793_697_900.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def inbox(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Inbox:
    if request.param == "memory":
        return MemoryInbox(lease_seconds=LEASE, clock=clock)
    return SqliteInbox(tmp_path / "inbox.db", lease_seconds=LEASE, clock=clock)


def standing(inbox: Inbox, event_id: str = "evt_1") -> str:
    return inbox.claim(event_id).standing.value


def test_the_first_claim_gets_the_work_and_others_wait(inbox: Inbox) -> None:
    assert [standing(inbox), standing(inbox), standing(inbox, "evt_2")] == ["mine", "busy", "mine"]


def test_a_finished_id_is_done_however_late_it_comes_again(inbox: Inbox, clock: Clock) -> None:
    assert inbox.finish(inbox.claim("evt_1"))

    clock.now += LEASE * 10

    assert [standing(inbox), standing(inbox)] == ["done", "done"]


def test_failed_work_can_be_claimed_again_at_once(inbox: Inbox) -> None:
    inbox.release(inbox.claim("evt_1"))

    assert standing(inbox) == "mine"


@pytest.mark.parametrize("moved", [LEASE, -LEASE], ids=["later", "after the clock was set back"])
def test_a_claim_that_nobody_finishes_is_void_after_its_lease(inbox: Inbox, clock: Clock, moved: float) -> None:
    inbox.claim("evt_1")
    clock.now += moved - (1 if moved > 0 else -1)
    assert standing(inbox) == "busy"

    clock.now += 1 if moved > 0 else -1

    assert standing(inbox) == "mine"


def test_who_lost_the_claim_can_neither_finish_nor_release_it(inbox: Inbox, clock: Clock) -> None:
    slow = inbox.claim("evt_1")
    clock.now += LEASE
    second = inbox.claim("evt_1")

    assert not inbox.finish(slow)
    inbox.release(slow)

    assert standing(inbox) == "busy"
    assert inbox.finish(second)
    inbox.release(slow)
    assert standing(inbox) == "done"


def test_a_claim_that_got_nothing_changes_nothing(inbox: Inbox) -> None:
    mine = inbox.claim("evt_1")
    busy = inbox.claim("evt_1")

    inbox.release(busy)
    assert not inbox.finish(busy)

    assert standing(inbox) == "busy"
    assert inbox.finish(mine)
    assert not inbox.finish(Claim("evt_2", Standing.MINE, "never claimed"))


def test_threads_share_an_id_out_to_one_of_them(inbox: Inbox) -> None:
    with ThreadPoolExecutor(8) as threads:
        got = Counter(threads.map(lambda number: standing(inbox, f"evt_{number % 5}"), range(40)))

    assert got == {"mine": 5, "busy": 35}


CLAIM_AND_FINISH = """
import sys
from dispatcher.receiver import SqliteInbox, Standing
inbox = SqliteInbox(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
claims = [inbox.claim(f"evt_{number}") for number in range(int(sys.argv[2]))]
print(sum(inbox.finish(claim) for claim in claims if claim.standing is Standing.MINE))
"""


def test_processes_share_a_file_and_each_id_is_done_once(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    command = [sys.executable, "-S", "-c", CLAIM_AND_FINISH, str(path), "20"]
    processes = [
        subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    done = [int(process.communicate(timeout=50)[0]) for process in processes]

    assert sum(done) == 20
    again = SqliteInbox(path)
    assert {standing(again, f"evt_{number}") for number in range(20)} == {"done"}


def test_a_new_process_knows_what_the_dead_one_finished_and_takes_over_what_it_had_begun(
    tmp_path: Path, clock: Clock
) -> None:
    before = SqliteInbox(tmp_path / "inbox.db", clock=clock)
    before.finish(before.claim("evt_done"))
    before.claim("evt_begun")
    del before

    after = SqliteInbox(tmp_path / "inbox.db", clock=clock)
    assert (standing(after, "evt_done"), standing(after, "evt_begun")) == ("done", "busy")
    clock.now += LEASE
    assert standing(after, "evt_begun") == "mine"


def test_old_ids_go_a_few_at_a_time(tmp_path: Path, clock: Clock) -> None:
    inbox = SqliteInbox(tmp_path / "inbox.db", retention_days=30, clock=clock)
    for number in range(25):
        inbox.finish(inbox.claim(f"evt_{number}"))
    clock.now += 29 * DAY
    inbox.finish(inbox.claim("evt_young"))
    clock.now += 1 * DAY + 1

    kept = []
    for _ in range(4):
        assert standing(inbox, "evt_young") == "done"
        with closing(sqlite3.connect(tmp_path / "inbox.db")) as database:
            kept.append(database.execute("SELECT count(*) FROM inbox").fetchone()[0])

    assert kept == [16, 6, 1, 1]


def test_memory_keeps_the_newest(clock: Clock) -> None:
    inbox = MemoryInbox(most=2, clock=clock)
    claims = [inbox.claim(f"evt_{number}") for number in range(3)]

    assert [inbox.finish(claim) for claim in claims] == [False, True, True]
    assert standing(inbox, "evt_2") == "done"
    assert standing(inbox, "evt_0") == "mine"


def test_a_locked_file_is_told_and_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inbox.db"
    inbox = SqliteInbox(path)
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda where, **options: real(where, **{**options, "timeout": 0.01}))
    with closing(real(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            inbox.claim("evt_1")

    assert standing(inbox) == "mine"
