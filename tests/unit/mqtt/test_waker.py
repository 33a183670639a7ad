"""Waking a poll from another thread."""

import select
import threading

from agent.mqtt.waker import Waker


def is_woken(waker: Waker) -> bool:
    poll = select.poll()
    poll.register(waker, select.POLLIN)
    return bool(poll.poll(0))


def test_wakes_until_it_is_cleared():
    waker = Waker()
    waker.open()
    assert not is_woken(waker)
    waker.wake()
    assert is_woken(waker)
    waker.clear()
    assert not is_woken(waker)
    waker.close()


def test_any_number_of_wakes_is_one():
    """More than a socket's buffer holds: it neither blocks nor raises, and one clear is enough."""
    waker = Waker()
    waker.open()
    threads = [threading.Thread(target=lambda: [waker.wake() for _ in range(50_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waker.clear()
    assert not is_woken(waker)
    waker.close()


def test_does_nothing_while_closed():
    waker = Waker()
    waker.wake()
    waker.clear()
    waker.open()
    waker.wake()
    waker.close()
    waker.wake()
    waker.close()
    assert waker.fileno() == -1


def test_a_wake_before_closing_is_not_remembered_after_opening_again():
    waker = Waker()
    waker.open()
    waker.wake()
    waker.close()
    waker.open()
    assert not is_woken(waker)
    waker.wake()
    assert is_woken(waker)
    waker.close()
