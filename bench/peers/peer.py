"""What the drivers in Python share: payloads, the handshake with the runner, and the report. See run.sh."""

import asyncio
import json
import os
import resource
import sys
import threading
import time

url = os.environ.get("PEERS_URL", "")


class Options:
    """KEY=VALUE from the command line."""

    def __init__(self, arguments):
        self.values = dict(argument.split("=", 1) for argument in arguments)

    def number(self, key, otherwise=0):
        value = float(self.values.get(key, otherwise))
        return int(value) if value == int(value) else value

    def text(self, key):
        return self.values.get(key, "")


class Measurement:
    def __init__(self):
        self.done = 0
        self.latencies = []
        self.begun = self.last = 0
        self.log = None
        self.effects = False
        self.lock = threading.Lock()

    def ready(self, options):
        self.seconds = options.number("seconds", 10)
        self.work_s = options.number("work_ms") / 1000
        self.effects = options.number("effects") > 0
        if options.text("log"):
            self.log = os.open(options.text("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        print("ready", flush=True)
        if not sys.stdin.readline():
            sys.exit(1)
        self.cpu = used_cpu()
        self.begun = self.last = time.monotonic()
        return self.begun

    def handled(self, message):
        with self.lock:
            self.done += 1
            self.last = time.monotonic()
            at = time.time()
            if message["at"] > 0:
                self.latencies.append((self.last - self.begun, (at - message["at"]) * 1000))
        if self.log is not None:
            os.write(self.log, f"{message['n']} {at:.3f}\n".encode())

    def handle(self, message, effect=None):
        """effect: writes the row that shows that this message was handled, where the scenario wants one."""
        if self.work_s > 0:
            time.sleep(self.work_s)
        if self.effects:
            effect(message["n"])
        self.handled(message)

    async def handle_async(self, message, effect):
        if self.work_s > 0:
            await asyncio.sleep(self.work_s)
        if self.effects:
            await effect(message["n"])
        self.handled(message)

    def is_finished(self, until_empty):
        """When the time is over, or nothing came for half a second although the queue is to be emptied: how long it took."""
        now = time.monotonic()
        if until_empty and now > self.last + (0.5 if self.done else 3):
            return self.last - self.begun
        return now - self.begun if now > self.begun + self.seconds else None

    def until_next_look_s(self, until_empty):
        """An idle worker is to be idle."""
        return 0.02 if until_empty else max(0.001, self.begun + self.seconds - time.monotonic())

    def finished(self, until_empty):
        while (elapsed := self.is_finished(until_empty)) is None:
            time.sleep(self.until_next_look_s(until_empty))
        return elapsed

    async def finished_async(self, until_empty):
        while (elapsed := self.is_finished(until_empty)) is None:
            await asyncio.sleep(self.until_next_look_s(until_empty))
        return elapsed

    def percentiles(self, prefix, begin, end):
        ms = sorted(value for at, value in self.latencies if begin <= at <= end)
        return {f"{prefix}p{p}_ms": ms[round(p / 100 * (len(ms) - 1))] for p in (50, 95, 99)} if ms else {}

    def result(self, done, elapsed):
        with self.lock:
            result = {
                "done": done,
                "seconds": elapsed,
                "cpu_s": used_cpu() - self.cpu,
                "rss_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                **self.percentiles("", 0, 1e9),
                **self.percentiles("early_", 0, self.seconds / 3),
                **self.percentiles("late_", self.seconds * 2 / 3, 1e9),
            }
        print(json.dumps(result), flush=True)

    def report(self, done, elapsed):
        """The result; then the connections stay until the runner has read its counters."""
        self.result(done, elapsed)
        sys.stdin.read()

    async def report_async(self, done, elapsed):
        self.result(done, elapsed)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


m = Measurement()


def used_cpu():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


def payload(n, at=0):
    return {"n": n, "at": at, "pad": "." * 56}


def groups(options):
    """What fill enqueues, a thousand at once."""
    count = options.number("count")
    for n in range(0, count, 1000):
        yield [payload(i + 1) for i in range(n, min(n + 1000, count))]


class Pace:
    """When the calls of produce are due: one after the other, or at a rate."""

    def __init__(self, options):
        self.rate, self.group, self.n = options.number("rate"), options.number("group", 1), 0
        self.begun = self.at = m.ready(options)
        self.offset = time.time() - self.begun

    def wait_s(self):
        return max(0, self.at - time.monotonic()) if self.rate else 0

    def payloads(self):
        self.n += self.group
        return [payload(self.n - self.group + i + 1, self.offset + self.at) for i in range(self.group)]

    def going(self):
        return self.at < self.begun + m.seconds

    def next(self):
        self.at = self.at + 1 / self.rate if self.rate else time.monotonic()


def produce(options, enqueue):
    pace = Pace(options)
    while pace.going():
        time.sleep(pace.wait_s())
        enqueue(pace.payloads())
        pace.next()
    m.report(pace.n, time.monotonic() - pace.begun)


async def produce_async(options, enqueue):
    pace = Pace(options)
    while pace.going():
        if (wait := pace.wait_s()) > 0:
            await asyncio.sleep(wait)
        await enqueue(pace.payloads())
        pace.next()
    await m.report_async(pace.n, time.monotonic() - pace.begun)


def version(package):
    from importlib.metadata import version as version_of

    print(json.dumps({"version": version_of(package)}))


def main(commands):
    if len(sys.argv) < 2 or sys.argv[1] not in commands or not url:
        sys.exit(f"usage: PEERS_URL=URL DRIVER {'|'.join(commands)} [KEY=VALUE...]")
    outcome = commands[sys.argv[1]](Options(sys.argv[2:]))
    if asyncio.iscoroutine(outcome):
        asyncio.run(outcome)
    sys.stdout.flush()
    # Threads of a library that still wait are not waited for.
    os._exit(0)
