"""The driver of Procrastinate. Asynchronous tasks, so that they share a process (its documentation: concurrency); LISTEN/NOTIFY
as by default; many jobs are deferred with batch_defer_async. As many tasks at once as the scenario says: it has no batches."""

import asyncio
import logging
import os

import procrastinate
import peer
from peer import m

logging.disable(logging.CRITICAL)


def app_with(connections):
    connector = procrastinate.PsycopgConnector(conninfo=peer.url, min_size=1, max_size=connections)
    app = procrastinate.App(connector=connector)

    async def effect(n):
        """It finishes a job after the task, with a statement of its own."""
        await connector.execute_query_async("INSERT INTO peers_effects(n) VALUES (%(n)s)", n=n)

    # Without retry a task that fails, as one does whose connection is ended, is not done again.
    @app.task(name="bench", queue="bench", retry=True)
    async def bench(**message):
        await m.handle_async(message, effect)

    return app, bench


async def setup(options):
    app, _ = app_with(2)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    peer.version("procrastinate")


def enqueuer(task):
    async def enqueue(payloads):
        if len(payloads) == 1:
            await task.defer_async(**payloads[0])
        else:
            await task.batch_defer_async(*payloads)

    return enqueue


async def fill(options):
    app, task = app_with(2)
    async with app.open_async():
        for group in peer.groups(options):
            await enqueuer(task)(group)


async def produce(options):
    app, task = app_with(2)
    async with app.open_async():
        await peer.produce_async(options, enqueuer(task))


async def work(options, concurrency, until_empty):
    app, _ = app_with(min(concurrency, 24) + 2)
    async with app.open_async():
        m.ready(options)
        worker = asyncio.create_task(app.run_worker_async(concurrency=concurrency, install_signal_handlers=False))
        worker.add_done_callback(lambda _: os._exit(1))  # it gave up: whoever watches starts another one
        elapsed = await m.finished_async(until_empty)
        done = m.done
        await m.report_async(done, elapsed)
        os._exit(0)


peer.main(
    {
        "setup": setup,
        "fill": fill,
        "produce": produce,
        "fetch": lambda options: work(options, options.number("batch", 1), True),
        "handle": lambda options: work(options, options.number("concurrency", 4), options.number("until_empty") > 0),
    }
)
