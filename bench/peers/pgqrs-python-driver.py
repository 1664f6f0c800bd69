"""The driver of pgqrs, the Rust one, through its Python package. fetch: dequeue with a batch size and archive_many. Handlers: a
batch of 50 is taken and archived at once, its messages handled with the wanted concurrency; with each=1 one by one."""

import asyncio

import peer
import pgqrs
from peer import m

QUEUE = "bench"


async def connect(lease_ms=0):
    config = pgqrs.Config.from_dsn(peer.url)
    # Its default is a limit on enqueueing.
    config.max_enqueue_per_second = None
    config.default_max_batch_size = 1000
    if lease_ms:
        config.default_lock_time_seconds = lease_ms // 1000
    return await pgqrs.connect_with(config)


async def setup(options):
    store = await connect()
    await pgqrs.admin(store).install()
    await store.queue(QUEUE)
    await pgqrs.workflow().name("three").store(store).create()
    peer.version("pgqrs")


async def enqueuer():
    producer = await (await connect()).producer(QUEUE)

    async def enqueue(payloads):
        if len(payloads) == 1:
            await producer.enqueue(payloads[0])
        else:
            await pgqrs.enqueue_batch(producer, payloads)

    return enqueue


async def fill(options):
    enqueue = await enqueuer()
    for group in peer.groups(options):
        await enqueue(group)


async def produce(options):
    await peer.produce_async(options, await enqueuer())


async def fetch(options):
    consumer = await (await connect()).consumer(QUEUE)
    batch, done = options.number("batch", 1), 0
    m.ready(options)
    while m.is_finished(False) is None:
        messages = await consumer.dequeue(batch_size=batch)
        if not messages:
            break
        await archive(consumer, messages)
        done += len(messages)
    await m.report_async(done, asyncio.get_running_loop().time() - m.begun)


async def archive(consumer, messages):
    if len(messages) == 1:
        await consumer.archive(messages[0].id)
    else:
        await consumer.archive_many([message.id for message in messages])


async def consume(store, batch, concurrency):
    consumer = await store.consumer(QUEUE)
    slots = asyncio.Semaphore(concurrency)

    async def handle(message):
        async with slots:
            await m.handle_async(message.payload)

    while True:
        try:
            messages = await consumer.dequeue(batch_size=batch)
            if messages:
                await asyncio.gather(*(handle(message) for message in messages))
                await archive(consumer, messages)
            else:
                await asyncio.sleep(0.01)
        except pgqrs.PgqrsError:
            await asyncio.sleep(0.1)


async def handle(options):
    store = await connect(options.number("lease_ms"))
    concurrency = options.number("concurrency", 4)
    m.ready(options)
    if options.number("each") > 0:
        tasks = [asyncio.create_task(consume(store, 1, 1)) for _ in range(concurrency)]
    else:
        tasks = [asyncio.create_task(consume(store, 50, concurrency))]
    elapsed = await m.finished_async(options.number("until_empty") > 0)
    await m.report_async(m.done, elapsed)
    for task in tasks:
        task.cancel()


async def workflow(options):
    store = await connect()
    consumer = await store.consumer("three")
    for _ in range(options.number("count")):
        await pgqrs.workflow().name("three").store(store).trigger({"path": "/tmp/report.csv"}).execute()
    m.ready(options)
    while m.is_finished(False) is None:
        messages = await consumer.dequeue(batch_size=1)
        if not messages:
            break
        run = await pgqrs.run().message(messages[0]).store(store).execute()
        for i in range(3):
            step = await run.acquire_step(f"step{i}")
            if step.guard:
                await step.guard.success({"bytes": 1234, "path": "/tmp/a.zip"})
        await run.complete("done")
        await consumer.archive(messages[0].id)
        m.done += 1
    await m.report_async(m.done, asyncio.get_running_loop().time() - m.begun)


peer.main(
    {
        "setup": setup,
        "fill": fill,
        "produce": produce,
        "fetch": fetch,
        "handle": handle,
        "workflow": workflow,
    }
)
