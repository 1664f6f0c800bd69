"""The driver of litequeue on SQLite, with synchronous = FULL, because the others are durable, too (its default is NORMAL). It has no
workers; groups are put in one transaction of its own."""

import json

from litequeue import LiteQueue
import peer
from peer import m

queue = LiteQueue(peer.url.removeprefix("sqlite://"), timeout=30)
queue.conn.execute("PRAGMA synchronous = FULL")


def enqueue(payloads):
    if len(payloads) == 1:
        queue.put(json.dumps(payloads[0]))
        return
    with queue.transaction():
        for payload in payloads:
            queue.put(json.dumps(payload))


def fill(options):
    for group in peer.groups(options):
        enqueue(group)


def fetch(options):
    m.ready(options)
    while m.is_finished(False) is None:
        message = queue.pop()
        if message is None:
            break
        m.handle(json.loads(message.data))
        queue.done(message.message_id)
    m.report(m.done, m.last - m.begun)


peer.main(
    {
        "setup": lambda options: peer.version("litequeue"),
        "fill": fill,
        "produce": lambda options: peer.produce(options, enqueue),
        "fetch": fetch,
    }
)
