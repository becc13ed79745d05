import concurrent.futures
import threading

import pytest

from training.engine.run_dir import BackgroundWriter


def broken():
    raise OSError(28, "No space left on device")


def test_training_goes_on_while_a_piece_is_written():
    may_end, order = threading.Event(), []
    with BackgroundWriter() as writer:
        writer.start(lambda: order.append(("waited", may_end.wait(600))))
        writer.check()  # does not wait
        order.append(("training", True))
        may_end.set()
    assert order == [("training", True), ("waited", True)]


def test_one_piece_is_in_flight_at_a_time():
    running, most = [], []

    def write():
        running.append(1)
        most.append(len(running))
        running.pop()

    with BackgroundWriter() as writer:
        for _ in range(20):
            writer.start(write)
    assert most == [1] * 20


@pytest.mark.parametrize("call", ["check", "finish", "start"])
def test_what_went_wrong_is_raised_by_the_next_call_once(call):
    with BackgroundWriter() as writer:
        writer.start(broken)
        assert writer.in_flight is not None
        concurrent.futures.wait([writer.in_flight])
        arguments = [lambda: None] if call == "start" else []
        with pytest.raises(OSError, match="No space left"):
            getattr(writer, call)(*arguments)
        writer.finish()


def fail_beside(writer):
    with writer:
        writer.start(broken)
        raise ValueError("of the step")


def test_a_failure_is_raised_at_the_end_and_stands_beside_another_one(caplog):
    with pytest.raises(OSError, match="No space left"), BackgroundWriter() as writer:
        writer.start(broken)
    with pytest.raises(ValueError, match="of the step"):
        fail_beside(BackgroundWriter())
    assert "in the background: [Errno 28] No space left on device" in caplog.text
