from dispatcher.lanes.lane import Lane, Queue
from dispatcher.lanes.watch import Watch
from dispatcher.model.endpoint import HostLimits
from tests.support.builders import a_delivery, a_settlement


class Orders:
    """Counts what is ordered of hosts that do well."""

    n_recoveries = 0

    def pause(self, endpoint_id: int, host_id: int, seconds: float | None) -> None:
        raise AssertionError((endpoint_id, host_id, seconds))

    def slow_down(self, host_id: int) -> None:
        raise AssertionError(host_id)

    def recovers(self, host_id: int) -> None:
        assert host_id == 1
        self.n_recoveries += 1

    def forgive(self, endpoint_id: int) -> None:
        raise AssertionError(endpoint_id)


def recoveries(scale: float, n_successes: int) -> int:
    orders, lane, queue = Orders(), Lane(1, HostLimits(rate=40.0, burst=20, in_flight=8), 8), Queue(1)
    lane.scale = scale
    watch = Watch(orders)
    for _ in range(n_successes):
        watch.note(lane, queue, a_settlement(a_delivery()), now=0.0)
    return orders.n_recoveries


def test_the_slower_a_host_is_the_fewer_successes_are_worth_a_word() -> None:
    assert [recoveries(scale, 20) for scale in (0.05, 0.2, 0.4, 0.8)] == [20, 20, 10, 5]
    assert recoveries(0.8, 3) == 0


def test_at_its_full_rate_a_host_has_nothing_to_recover_from() -> None:
    assert recoveries(1.0, 20) == 0
