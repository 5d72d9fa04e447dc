"""Who gets which task."""

from collections.abc import Iterator
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from tpo.store.processes.streams import NO_MORE, Deal, Queue


@given(st.integers(1, 4), st.integers(0, 12), st.data())
def test_tasks_are_dealt_in_turn_whoever_asks_when(num_workers: int, num_tasks: int, data: st.DataObject) -> None:
    deal = Deal(range(num_tasks), num_workers)
    found: dict[int, list[int]] = {number: [] for number in range(num_workers)}
    left = set(found)
    while left:
        number = data.draw(st.sampled_from(sorted(left)))
        task = deal.next_of(number)
        if task is NO_MORE:
            left.remove(number)
        else:
            found[number].append(task)
    assert found == {number: list(range(number, num_tasks, num_workers)) for number in range(num_workers)}


def test_tasks_are_taken_as_far_as_they_are_needed() -> None:
    taken = []

    def endless() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    deal = Deal(endless(), 2)
    assert [deal.next_of(1), deal.next_of(1)] == [1, 3] and len(taken) <= 5
    assert [deal.next_of(0), deal.next_of(0)] == [0, 2] and len(taken) <= 5


def test_whoever_asks_gets_the_next_of_a_queue() -> None:
    queue = Queue("abc")
    assert [queue.next_of(number) for number in (1, 1, 0)] == ["a", "b", "c"]
    assert queue.next_of(0) is NO_MORE and queue.next_of(1) is NO_MORE
