// What the drivers in JavaScript share: payloads, the handshake with the runner, and the report. See run.sh.
import { appendFileSync, openSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { performance } from 'node:perf_hooks'

export const url = process.env.PEERS_URL

// Packages are in the build folder, not beside the driver.
const packages = process.env.PEERS_NODE + '/'
export const require = createRequire(packages)
export const versionOf = (name) => JSON.parse(readFileSync(`${packages}node_modules/${name}/package.json`)).version

export function options (args) {
  const o = { count: 0, group: 1, batch: 1, concurrency: 4, seconds: 10, rate: 0, until_empty: 0, work_ms: 0, log: '' }
  for (const arg of args) {
    const at = arg.indexOf('=')
    const value = arg.slice(at + 1)
    o[arg.slice(0, at)] = value !== '' && !isNaN(value) ? Number(value) : value
  }
  return o
}

const wall = () => (performance.timeOrigin + performance.now()) / 1000
export const seconds = () => performance.now() / 1000
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
export const payload = (n, at = 0) => ({ n, at, pad: '.'.repeat(56) })

const input = createInterface({ input: process.stdin })
const lines = input[Symbol.asyncIterator]()
export const release = () => input.close()

const all = []
let begun, duration, cpu, log
let last = 0
let done = 0

export async function ready (o) {
  duration = o.seconds
  if (o.log) log = openSync(o.log, 'a')
  console.log('ready')
  if ((await lines.next()).done) process.exit(1)
  cpu = process.cpuUsage()
  begun = last = seconds()
  return begun
}

// A handler's work on one message, the same for all.
export function handled (message) {
  done++
  last = seconds()
  const at = wall()
  if (message.at > 0) all.push([last - begun, (at - message.at) * 1000])
  if (log !== undefined) appendFileSync(log, `${message.n} ${at.toFixed(3)}\n`)
}

// effect: writes the row that shows that this message was handled, where the scenario wants one.
export async function handle (message, o, effect) {
  if (o.work_ms > 0) await sleep(o.work_ms)
  if (o.effects) await effect('INSERT INTO peers_effects(n) VALUES ($1)', [message.n])
  handled(message)
}

export const count = () => done

// Until the time is over, or nothing has come for half a second when the queue is to be emptied. Gives when the last one came.
export async function finished (o) {
  while (seconds() < begun + o.seconds) {
    // An idle worker is to be idle.
    await sleep(o.until_empty ? 20 : Math.max(1, (begun + o.seconds - seconds()) * 1000))
    if (o.until_empty && seconds() > last + (done ? 0.5 : 3)) return last - begun
  }
  return seconds() - begun
}

function percentiles (prefix, values) {
  const sorted = values.map((v) => v[1]).sort((a, b) => a - b)
  if (!sorted.length) return {}
  const p = (q) => sorted[Math.round(q * (sorted.length - 1))]
  return { [prefix + 'p50_ms']: p(0.5), [prefix + 'p95_ms']: p(0.95), [prefix + 'p99_ms']: p(0.99) }
}

// The result; then the connections stay until the runner has read its counters.
export async function report (number, elapsed) {
  const used = process.cpuUsage(cpu)
  console.log(JSON.stringify({
    done: number,
    seconds: elapsed,
    cpu_s: (used.user + used.system) / 1e6,
    rss_kb: process.resourceUsage().maxRSS,
    ...percentiles('', all),
    ...percentiles('early_', all.filter((v) => v[0] < duration / 3)),
    ...percentiles('late_', all.filter((v) => v[0] > duration * 2 / 3))
  }))
  while (!(await lines.next()).done);
}

// Enqueues in groups, one call after the other or at a rate; enqueue gets a list of payloads.
export async function produce (o, enqueue) {
  let n = 0
  const start = await ready(o)
  const offset = wall() - start
  let at = start
  while (at < start + o.seconds) {
    const wait = at - seconds()
    if (o.rate > 0 && wait > 0.001) await sleep(wait * 1000)
    await enqueue(Array.from({ length: o.group }, () => payload(++n, offset + at)))
    // The next one is due at its time, however long this one took.
    at = o.rate > 0 ? at + 1 / o.rate : seconds()
  }
  await report(n, seconds() - start)
}

export async function fill (o, enqueue) {
  for (let n = 0; n < o.count;) await enqueue(Array.from({ length: Math.min(1000, o.count - n) }, () => payload(++n)))
}

export async function main (commands) {
  const [command, ...args] = process.argv.slice(2)
  if (!url || !commands[command]) {
    console.error(`usage: PEERS_URL=URL DRIVER ${Object.keys(commands).join('|')} [KEY=VALUE...]`)
    process.exit(2)
  }
  try {
    await commands[command](options(args))
    process.exit(0)
  } catch (error) {
    console.error(error)
    process.exit(1)
  }
}
