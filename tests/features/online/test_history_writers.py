"""Many writers of histories at the same time: threads, processes, and a batch job beside them."""

import threading
from collections.abc import Iterator

from features.online.open_history import open_history
from tests.features.online_histories import SPEC, OnlineStore, PlainHistory, append, seconds_after_start, touchpoint


def test_a_batch_job_loses_no_touchpoint_that_is_appended_meanwhile(
    store: OnlineStore, user_ids: Iterator[str]
) -> None:
    """Each user has a touchpoint, the job brings a younger one, and an even younger one happens while it writes."""
    users = [next(user_ids) for _ in range(450)]  # several batches, the last one not full
    for user in users:
        append(store.history, user, touchpoint(1))
    log = PlainHistory(SPEC.window)
    for second in (1, 2):
        log.merge([touchpoint(second)])
    rows = log.rows(*users)
    with open_history(store.repo, SPEC) as history, open_history(store.repo, SPEC) as batch:
        job = threading.Thread(target=lambda: batch.merge(rows))
        job.start()
        for user in users:
            append(history, user, touchpoint(3))
        job.join()
    assert [seconds_after_start(store.read(user)) for user in users] == [[1, 2, 3]] * len(users)


def test_threads_share_a_history(store: OnlineStore, user: str) -> None:
    with open_history(store.repo, SPEC.replace(window=1000)) as history:
        work = [
            threading.Thread(target=lambda i=i: [append(history, user, touchpoint(4 * s + i)) for s in range(30)])
            for i in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    assert seconds_after_start(store.read(user)) == list(range(120))
