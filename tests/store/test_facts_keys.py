"""Queue and key of a job that the store alone has."""

from __future__ import annotations

from procjobs.store.reading import find_statuses
from tests.process import jobs

from ..conftest import wait_until


def test_store_knows_queue_and_key_and_finds_by_them(started, store):
    pool = started(workers=1, queues={"mail": {}})
    keyed = pool.options(queue="mail", key="user-7 ♥").submit(jobs.pid)
    long, plain = pool.options(key="k" * 300).submit(jobs.pid), pool.submit(jobs.pid)
    for job in (keyed, long, plain):
        job.result(30)
    wait_until(lambda: len(pool.history(state="succeeded")) == 3)
    found = find_statuses(store.url, [keyed.raw_id, plain.raw_id])
    by_id = {status.id: (status.queue, status.key) for status in found}
    assert {keyed.id: ("mail", "user-7 ♥"), plain.id: (None, None)} == by_id
    assert [("mail", "user-7 ♥")] == [(record.queue, record.key) for record in pool.history(search="7 ♥")]
    assert [keyed.id] == [record.id for record in pool.history(search="MAIL")]
    assert pool.history(search=long.id)[0].key.startswith("sha256:")
    assert [] == pool.history(search="user-8")
