// The driver of graphile-worker. Settings: those of the performance page of its documentation (local queue, completion in
// batches without delay), with the concurrency and the local queue that the scenario asks for.
import * as peer from './peer.mjs'

const { require } = peer
const { run, makeWorkerUtils, Logger } = require('graphile-worker')
const { Pool } = require('pg')

const logger = new Logger(() => (level, message) => { if (level === 'error') console.error(message) })

async function withUtils (body) {
  const pgPool = new Pool({ connectionString: peer.url, max: 4 })
  pgPool.on('error', () => {})
  const utils = await makeWorkerUtils({ pgPool, logger })
  try {
    await body(utils)
  } finally {
    await utils.release()
    await pgPool.end()
  }
}

const enqueuer = (utils) => (payloads) => payloads.length === 1
  ? utils.addJob('bench', payloads[0])
  : utils.addJobs(payloads.map((payload) => ({ identifier: 'bench', payload })))

async function work (o, concurrentJobs, size) {
  const pgPool = new Pool({ connectionString: peer.url, max: Math.max(10, concurrentJobs + 2) })
  pgPool.on('error', () => {})
  await peer.ready(o)
  await run({
    pgPool,
    logger,
    noHandleSignals: true,
    // It completes a job after the handler, with a statement of its own.
    taskList: { bench: (payload, helpers) => peer.handle(payload, o, (text, values) => helpers.query(text, values)) },
    preset: {
      worker: {
        concurrentJobs,
        maxPoolSize: Math.max(10, concurrentJobs + 2),
        ...(size > 1 ? { localQueue: { size }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } : {})
      }
    }
  })
  const elapsed = await peer.finished(o)
  const done = peer.count()
  await peer.report(done, elapsed)
  process.exit(0)
}

await peer.main({
  setup: () => withUtils(async (utils) => {
    await utils.migrate()
    console.log(JSON.stringify({ version: peer.versionOf('graphile-worker') }))
  }),
  fill: (o) => withUtils((utils) => peer.fill(o, enqueuer(utils))),
  produce: (o) => withUtils((utils) => peer.produce(o, enqueuer(utils))),
  // It has no calls for taking a batch by hand; its local queue holds one.
  fetch: (o) => work({ ...o, until_empty: 1 }, Math.min(o.batch, 24), o.batch),
  handle: (o) => work(o, o.concurrency, o.each ? 1 : 500)
})
