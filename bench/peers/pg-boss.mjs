// The driver of pg-boss. Batches are fetched and completed by hand with batchSize. Handlers: work() with a batch for the
// wanted concurrency, fetching again at once while batches are full (burstWhenBatchFull), and woken by NOTIFY.
import * as peer from './peer.mjs'

const { require } = peer
const { PgBoss } = require('pg-boss')
const queue = 'bench'

async function withBoss (options, body) {
  const boss = new PgBoss({ connectionString: peer.url, schedule: false, ...options })
  boss.on('error', (error) => { if (!options.quiet) console.error(error.message) })
  await boss.start()
  await body(boss)
  process.exit(0)
}

const enqueuer = (boss, o) => {
  const expiry = o.lease_ms ? { expireInSeconds: o.lease_ms / 1000 } : {}
  return (payloads) => payloads.length === 1
    ? boss.send(queue, payloads[0], expiry)
    : boss.insert(queue, payloads.map((data) => ({ data, ...expiry })))
}

await peer.main({
  setup: () => withBoss({}, async (boss) => {
    await boss.createQueue(queue, { notify: true })
    console.log(JSON.stringify({ version: peer.versionOf('pg-boss') }))
  }),
  fill: (o) => withBoss({ supervise: false }, (boss) => peer.fill(o, enqueuer(boss, o))),
  produce: (o) => withBoss({ supervise: false }, (boss) => peer.produce(o, enqueuer(boss, o))),
  fetch: (o) => withBoss({ supervise: false }, async (boss) => {
    const begun = await peer.ready(o)
    let done = 0
    while (peer.seconds() < begun + o.seconds) {
      const jobs = await boss.fetch(queue, { batchSize: o.batch })
      if (!jobs.length) break
      await boss.complete(queue, jobs.map((job) => job.id))
      done += jobs.length
    }
    await peer.report(done, peer.seconds() - begun)
  }),
  handle: (o) => withBoss({ useListenNotify: true, quiet: o.log !== '', ...(o.lease_ms ? { monitorIntervalSeconds: 1, superviseIntervalSeconds: 1 } : {}) }, async (boss) => {
    await peer.ready(o)
    const settings = { batchSize: o.concurrency, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true }
    // A transactional worker: what it does with tx commits together with the completion of the batch.
    await boss.work(queue, o.effects ? { ...settings, transactional: true } : settings, async (jobs, tx) => {
      await Promise.all(jobs.map((job) => peer.handle(job.data, o, (text, values) => tx.executeSql(text, values))))
    })
    const elapsed = await peer.finished(o)
    await peer.report(peer.count(), elapsed)
  })
})
