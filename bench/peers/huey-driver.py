"""The driver of huey on SQLite: SqliteHuey with fsync, because the others are durable, too. fetch: dequeue and execute by hand;
handlers: its Consumer with threads, which ask every 10 ms at the latest when there is nothing."""

import logging

from huey import SqliteHuey
import peer
from peer import m

logging.disable(logging.CRITICAL)
queue = SqliteHuey("bench", filename=peer.url.removeprefix("sqlite://"), fsync=True, results=False)


@queue.task(name="bench")
def bench(message):
    m.handle(message)


def enqueue(payloads):
    for payload in payloads:
        bench(payload)


def fill(options):
    """In one transaction, or it would take longer than what is measured."""
    with queue.storage.db(commit=True) as cursor:
        for group in peer.groups(options):
            for payload in group:
                data = queue.serialize_task(bench.s(payload))
                cursor.execute("insert into task (queue, data, priority) values (?, ?, 0)", (queue.storage.name, data))


def fetch(options):
    m.ready(options)
    while m.is_finished(False) is None:
        task = queue.dequeue()
        if task is None:
            break
        queue.execute(task)
    m.report(m.done, m.last - m.begun)


def handle(options):
    m.ready(options)
    consumer = queue.create_consumer(
        workers=options.number("concurrency", 4), periodic=False, initial_delay=0.001, max_delay=0.01, check_worker_health=False
    )
    consumer.start()
    elapsed = m.finished(options.number("until_empty") > 0)
    m.report(m.done, elapsed)


peer.main(
    {
        "setup": lambda options: peer.version("huey"),
        "fill": fill,
        "produce": lambda options: peer.produce(options, enqueue),
        "fetch": fetch,
        "handle": handle,
    }
)
