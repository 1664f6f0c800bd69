//! The driver of pgqrs, the Rust one: what bench/peers/run.sh expects of one is written there. fetch: dequeue_many and archive_many.
//! Handlers: batches of 50 are taken and archived at once, their messages handled with the wanted concurrency; with each=1 one by one.

use pgqrs::{Config, Consumer};
use serde_json::{json, Value};
use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Outcome<T> = Result<T, Box<dyn Error>>;

const QUEUE: &str = "bench";

struct Options(HashMap<String, String>);

impl Options {
    fn number(&self, key: &str, otherwise: f64) -> f64 {
        self.0.get(key).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
    }
}

struct State {
    done: u64,
    last: Instant,
    latencies: Vec<(f64, f64)>, // when, in seconds since the beginning; ms
    log: Option<std::fs::File>,
}

struct Measurement {
    begun: Instant,
    seconds: f64,
    work: Duration,
    cpu: f64,
    state: Mutex<State>,
}

fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Seconds of processor, and the largest resident size in KB.
fn usage() -> (f64, i64) {
    let mut u = unsafe { std::mem::zeroed::<libc::rusage>() };
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut u) };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    (seconds(u.ru_utime) + seconds(u.ru_stime), u.ru_maxrss)
}

fn payload(n: u64, at: f64) -> Value {
    json!({"n": n, "at": at, "pad": ".".repeat(56)})
}

fn ready(options: &Options) -> Outcome<Arc<Measurement>> {
    let mut line = String::new();
    let log = match options.0.get("log") {
        Some(path) if !path.is_empty() => Some(std::fs::OpenOptions::new().append(true).create(true).open(path)?),
        _ => None,
    };
    println!("ready");
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Err("told to leave".into());
    }
    let begun = Instant::now();
    Ok(Arc::new(Measurement {
        begun,
        seconds: options.number("seconds", 10.0),
        work: Duration::from_secs_f64(options.number("work_ms", 0.0) / 1000.0),
        cpu: usage().0,
        state: Mutex::new(State { done: 0, last: begun, latencies: Vec::new(), log }),
    }))
}

impl Measurement {
    async fn handle(&self, message: &Value) {
        if !self.work.is_zero() {
            tokio::time::sleep(self.work).await;
        }
        let (now, at, due) = (Instant::now(), wall(), message["at"].as_f64().unwrap_or(0.0));
        let mut state = self.state.lock().expect("no handler panics");
        state.done += 1;
        state.last = now;
        if due > 0.0 {
            state.latencies.push(((now - self.begun).as_secs_f64(), (at - due) * 1000.0));
        }
        if let Some(log) = &mut state.log {
            log.write_all(format!("{} {at:.3}\n", message["n"]).as_bytes()).expect("the log can be written");
        }
    }

    fn is_over(&self) -> bool {
        self.begun.elapsed().as_secs_f64() > self.seconds
    }

    /// Until the time is over, or nothing has come for half a second when the queue is to be emptied.
    async fn finished(&self, until_empty: bool) -> f64 {
        loop {
            // An idle worker is to be idle.
            let left = Duration::from_secs_f64(f64::max(0.001, self.seconds - self.begun.elapsed().as_secs_f64()));
            tokio::time::sleep(if until_empty { Duration::from_millis(20) } else { left }).await;
            let (done, last) = {
                let state = self.state.lock().expect("no handler panics");
                (state.done, state.last)
            };
            if until_empty && last.elapsed().as_secs_f64() > if done > 0 { 0.5 } else { 3.0 } {
                return (last - self.begun).as_secs_f64();
            }
            if self.is_over() {
                return self.begun.elapsed().as_secs_f64();
            }
        }
    }

    /// The result; then the connections stay until the runner has read its counters.
    fn report(&self, done: u64, elapsed: f64) -> Outcome<()> {
        let (cpu, rss) = usage();
        let mut result = json!({"done": done, "seconds": elapsed, "cpu_s": cpu - self.cpu, "rss_kb": rss});
        let state = self.state.lock().expect("no handler panics");
        for (prefix, from, to) in [("", 0.0, 1e9), ("early_", 0.0, self.seconds / 3.0), ("late_", self.seconds * 2.0 / 3.0, 1e9)]
        {
            let mut ms: Vec<f64> = state.latencies.iter().filter(|l| l.0 >= from && l.0 <= to).map(|l| l.1).collect();
            ms.sort_by(f64::total_cmp);
            if let Some(last) = ms.len().checked_sub(1) {
                for p in [50, 95, 99] {
                    result[format!("{prefix}p{p}_ms")] = json!(ms[(p as f64 / 100.0 * last as f64).round() as usize]);
                }
            }
        }
        println!("{result}");
        std::io::stdin().lock().read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

async fn connect(lease_ms: f64) -> Outcome<impl pgqrs::Store> {
    let mut config = Config::from_dsn(std::env::var("PEERS_URL")?);
    // Its default is a limit on enqueueing.
    config.validation_config.max_enqueue_per_second = None;
    config.validation_config.max_enqueue_burst = None;
    if lease_ms > 0.0 {
        config.default_lock_time_seconds = (lease_ms / 1000.0) as u32;
    }
    Ok(pgqrs::connect_with_config(&config).await?)
}

async fn consumer(store: &impl pgqrs::Store, number: u32) -> Outcome<Consumer> {
    Ok(pgqrs::consumer(&format!("consumer-{}-{number}", std::process::id()), QUEUE).create(store).await?)
}

async fn archive(consumer: &Consumer, ids: Vec<i64>) -> pgqrs::Result<()> {
    if let [id] = ids[..] {
        consumer.archive(id).await?;
    } else {
        consumer.archive_many(ids).await?;
    }
    Ok(())
}

async fn setup() -> Outcome<()> {
    let store = connect(0.0).await?;
    pgqrs::admin(&store).install().await?;
    pgqrs::admin(&store).create_queue(QUEUE).await?;
    println!("{}", json!({"version": env!("PGQRS_VERSION")}));
    Ok(())
}

async fn fill(options: &Options) -> Outcome<()> {
    let store = connect(0.0).await?;
    let producer = pgqrs::producer(&format!("fill-{}", std::process::id()), QUEUE).create(&store).await?;
    let count = options.number("count", 0.0) as u64;
    for first in (1..=count).step_by(1000) {
        let payloads: Vec<Value> = (first..=count.min(first + 999)).map(|n| payload(n, 0.0)).collect();
        producer.batch_enqueue(&payloads).await?;
    }
    Ok(())
}

async fn produce(options: &Options) -> Outcome<()> {
    let store = connect(0.0).await?;
    let producer = pgqrs::producer(&format!("produce-{}", std::process::id()), QUEUE).create(&store).await?;
    let (group, rate) = (options.number("group", 1.0) as u64, options.number("rate", 0.0));
    let m = ready(options)?;
    let (mut n, mut at, offset) = (0, 0.0, wall());
    while at < m.seconds {
        if rate > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(f64::max(0.0, at - m.begun.elapsed().as_secs_f64()))).await;
        }
        let payloads: Vec<Value> = (n + 1..=n + group).map(|n| payload(n, offset + at)).collect();
        if group == 1 {
            producer.enqueue(&payloads[0]).await?;
        } else {
            producer.batch_enqueue(&payloads).await?;
        }
        n += group;
        // The next one is due at its time, however long this one took.
        at = if rate > 0.0 { at + 1.0 / rate } else { m.begun.elapsed().as_secs_f64() };
    }
    m.report(n, m.begun.elapsed().as_secs_f64())
}

async fn fetch(options: &Options) -> Outcome<()> {
    let store = connect(0.0).await?;
    let (consumer, batch) = (consumer(&store, 0).await?, options.number("batch", 1.0) as usize);
    let (m, mut done) = (ready(options)?, 0);
    while !m.is_over() {
        let messages = consumer.dequeue_many(batch).await?;
        if messages.is_empty() {
            break;
        }
        done += messages.len() as u64;
        archive(&consumer, messages.iter().map(|message| message.id).collect()).await?;
    }
    m.report(done, m.begun.elapsed().as_secs_f64())
}

/// One batch: what it holds is handled by so many tasks.
async fn consume(m: &Arc<Measurement>, consumer: &Consumer, batch: usize, concurrency: usize) -> pgqrs::Result<bool> {
    let messages = consumer.dequeue_many(batch).await?;
    if messages.is_empty() {
        return Ok(false);
    }
    let ids = messages.iter().map(|message| message.id).collect();
    let waiting = Arc::new(Mutex::new(messages));
    let tasks: Vec<_> = (0..concurrency)
        .map(|_| {
            let (m, waiting) = (m.clone(), waiting.clone());
            tokio::spawn(async move {
                loop {
                    let message = waiting.lock().expect("no handler panics").pop();
                    let Some(message) = message else { break };
                    m.handle(&message.payload).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no handler panics");
    }
    archive(consumer, ids).await?;
    Ok(true)
}

async fn handle(options: &Options) -> Outcome<()> {
    let store = connect(options.number("lease_ms", 0.0)).await?;
    let concurrency = options.number("concurrency", 4.0) as u32;
    let one_by_one = options.number("each", 0.0) > 0.0;
    let mut consumers = Vec::new();
    for number in 0..if one_by_one { concurrency } else { 1 } {
        consumers.push(consumer(&store, number).await?);
    }
    let m = ready(options)?;
    for consumer in consumers {
        let m = m.clone();
        tokio::spawn(async move {
            let (batch, tasks) = if one_by_one { (1, 1) } else { (50, concurrency as usize) };
            loop {
                match consume(&m, &consumer, batch, tasks).await {
                    Ok(true) => {}
                    Ok(false) => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
    }
    let elapsed = m.finished(options.number("until_empty", 0.0) > 0.0).await;
    let done = m.state.lock().expect("no handler panics").done;
    m.report(done, elapsed)
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let options = Options(arguments.filter_map(|a| a.split_once('=').map(|(k, v)| (k.into(), v.into()))).collect());
    match command.as_str() {
        "setup" => setup().await?,
        "fill" => fill(&options).await?,
        "produce" => produce(&options).await?,
        "fetch" => fetch(&options).await?,
        "handle" => handle(&options).await?,
        _ => return Err("usage: PEERS_URL=URL pgqrs-rust setup|fill|produce|fetch|handle [KEY=VALUE...]".into()),
    }
    // Tasks that still poll are not waited for.
    std::process::exit(0)
}
