"""The replay runner: it goes on whatever happens, and rests when there is nothing to do."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from dispatcher.kit import clock
from dispatcher.model.errors import PoisonBatch, Unavailable
from dispatcher.model.replay import ReplayKind, ReplayState, Step, Work
from dispatcher.replays import ReplayRunner

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]

GOING_ON = Step("rpl_1", ReplayKind.REPLAY, ReplayState.RUNNING)
DONE = Step("rpl_1", ReplayKind.REPLAY, ReplayState.DONE, 7, 2)


class Jobs:
    """Answers from a list, then that there is nothing to do; notes when it was asked for what."""

    def __init__(self, *answers: Step | Exception | None, seconds: float = 0.0) -> None:
        self._answers = list(answers)
        self._seconds = seconds
        self.looks: list[float] = []
        self.steps: list[float] = []
        self.n_wishes = 0
        self.strays: list[float] = []

    async def step(self) -> Step | None:
        self.steps.append(clock.mono())
        await asyncio.sleep(self._seconds)
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def work(self) -> Work:
        self.looks.append(clock.mono())
        return Work(bool(self._answers), has_wishes=len(self.looks) % 2 == 0)

    async def fulfil_wishes(self) -> int:
        self.n_wishes += 1
        return 0

    async def release_strays(self) -> int:
        self.strays.append(clock.mono())
        return 3 if len(self.strays) == 1 else 0


async def run(jobs: Jobs, seconds: float) -> list[str]:
    """Run for so long and return the names of what was logged."""
    jitter: Callable[[], float] = lambda: 1.0  # noqa: E731 - one line says it
    with capture_logs() as lines, pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await ReplayRunner(jobs, jitter=jitter).run()
    return [line["event"] for line in lines]


async def test_a_job_is_stepped_without_a_pause_while_it_is_ready() -> None:
    jobs = Jobs(GOING_ON, GOING_ON, DONE)
    began = clock.mono()

    logged = await run(jobs, 0.2)

    assert [at - began for at in jobs.steps] == pytest.approx([0.0] * 3)
    assert logged == ["strays_released", "replay_ended"]


async def test_with_nothing_to_do_it_looks_twice_a_second_and_for_strays_every_half_minute() -> None:
    jobs = Jobs()

    await run(jobs, 60.1)

    assert len(jobs.looks) == pytest.approx(121, abs=1)
    assert (jobs.steps, len(jobs.strays)) == ([], 3)


async def test_after_a_step_it_rests_for_as_long_as_the_step_took() -> None:
    jobs = Jobs(*[GOING_ON] * 10, seconds=0.1)
    began = clock.mono()

    await run(jobs, 0.9)

    assert [at - began for at in jobs.steps] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("fault", "event"), [(Unavailable("away"), "replays_unavailable"), (PoisonBatch("22003"), "replay_refused")]
)
async def test_a_fault_is_told_and_a_second_later_it_goes_on(fault: Exception, event: str) -> None:
    jobs = Jobs(fault, DONE)

    logged = await run(jobs, 1.1)

    assert logged == ["strays_released", event, "replay_ended"]
    assert jobs.steps[1] - jobs.steps[0] == pytest.approx(1.0)


async def test_wishes_are_fulfilled_between_the_steps_of_a_long_job() -> None:
    jobs = Jobs(*[GOING_ON] * 100, seconds=0.01)

    await run(jobs, 1.9)

    assert jobs.n_wishes == pytest.approx(len(jobs.steps) / 2, abs=1)


async def test_a_process_that_finds_every_job_taken_looks_again_later() -> None:
    jobs = Jobs(None, None, None)
    began = clock.mono()

    await run(jobs, 1.1)

    assert [at - began for at in jobs.looks] == pytest.approx([0.0, 0.5, 1.0])
