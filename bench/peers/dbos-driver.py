"""The driver of DBOS: a queue of workflows, and workflows of three steps. A queue takes what its worker_concurrency allows in every
polling interval, which is set to 10 ms (its default is a second); enqueueing with DBOSClient. It has no bulk enqueue."""

import logging
import threading

from dbos import DBOS, DBOSClient, SQLAlchemyDatasource
import peer
import sqlalchemy
from peer import m

datasource = None


def insert(n):
    datasource.sql_session().execute(sqlalchemy.text("INSERT INTO peers_effects(n) VALUES (:n)"), {"n": n})


def effect(n):
    """A step whose writes commit together with the record that it was done: what a workflow that is done again goes by."""
    datasource.run_tx_step({"name": "effect", "isolation_level": "READ COMMITTED"}, insert, n)


@DBOS.workflow(name="bench")
def bench(message):
    m.handle(message, effect)


@DBOS.step(name="step")
def step(i):
    return {"bytes": 1234, "path": "/tmp/a.zip"}


@DBOS.workflow(name="three")
def three(message):
    for i in range(3):
        step(i)
    m.handled({"at": 0, "n": message["n"]})
    return "done"


def launch(concurrency):
    logging.disable(logging.CRITICAL)
    DBOS(
        config={
            "name": "bench",
            "system_database_url": peer.url,
            "application_version": "1",
            "executor_id": "bench",
            "sys_db_pool_size": 20,
            "log_level": "CRITICAL",
        }
    )
    if m.effects:
        global datasource
        datasource = SQLAlchemyDatasource.create(peer.url, engine_kwargs={"pool_pre_ping": True})
    DBOS.launch()
    DBOS.register_queue("bench", worker_concurrency=concurrency, polling_interval_sec=0.01)


def setup(options):
    launch(1)
    DBOS.destroy()
    peer.version("dbos")


def enqueuer(workflow="bench"):
    client = DBOSClient(system_database_url=peer.url)
    options = {"queue_name": "bench", "workflow_name": workflow, "app_version": "1"}

    def enqueue(payloads):
        for payload in payloads:
            client.enqueue(options, payload)

    return enqueue


def fill_with(workflow, payloads):
    """Four threads: it takes long."""
    enqueue = enqueuer(workflow)
    threads = [threading.Thread(target=enqueue, args=(payloads[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def work(options, concurrency, until_empty):
    m.ready(options)
    launch(concurrency)
    elapsed = m.finished(until_empty)
    m.report(m.done, elapsed)


def workflow(options):
    fill_with("three", [peer.payload(n + 1) for n in range(options.number("count"))])
    work(options, options.number("concurrency", 1), True)


peer.main(
    {
        "setup": setup,
        "fill": lambda options: fill_with("bench", [p for group in peer.groups(options) for p in group]),
        "produce": lambda options: peer.produce(options, enqueuer()),
        "fetch": lambda options: work(options, options.number("batch", 1), True),
        "handle": lambda options: work(options, options.number("concurrency", 4), options.number("until_empty") > 0),
        "workflow": workflow,
    }
)
