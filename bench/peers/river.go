// The driver of River: what bench/peers/run.sh expects of one is written there. Settings: FetchCooldown as short as it may be,
// because, as its documentation of Config says, it limits throughput; groups go in with InsertManyFast (COPY). As many workers as the
// scenario says; River has no batches.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

type message struct {
	N   int64   `json:"n"`
	At  float64 `json:"at"`
	Pad string  `json:"pad"`
}

func (message) Kind() string { return "bench" }

type options map[string]string

func (o options) number(key string, otherwise float64) float64 {
	if value, err := strconv.ParseFloat(o[key], 64); err == nil {
		return value
	}
	return otherwise
}

func wall() float64 { return float64(time.Now().UnixNano()) / 1e9 }

type latency struct{ elapsed, ms float64 }

type measurement struct {
	sync.Mutex
	begun, last time.Time
	seconds     float64
	done        int64
	all         []latency
	log         *os.File
	cpu         float64
	input       *bufio.Reader
	work        time.Duration
	effects     *pgxpool.Pool // where handlers write a row, and complete their job with it
}

var m = measurement{input: bufio.NewReader(os.Stdin)}

func usedCPU() (cpu float64, rss int64) {
	var u syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6, u.Maxrss
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ready(o options) {
	var err error
	m.seconds = o.number("seconds", 10)
	m.work = time.Duration(o.number("work_ms", 0) * float64(time.Millisecond))
	if o["log"] != "" {
		m.log, err = os.OpenFile(o["log"], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		check(err)
	}
	fmt.Println("ready")
	_, err = m.input.ReadString('\n')
	check(err)
	m.cpu, _ = usedCPU()
	m.begun = time.Now()
	m.last = m.begun
}

type worker struct {
	river.WorkerDefaults[message]
}

// The effect and the completion in one transaction.
func effect(ctx context.Context, job *river.Job[message]) error {
	tx, err := m.effects.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if _, err = tx.Exec(ctx, "INSERT INTO peers_effects(n) VALUES ($1)", job.Args.N); err != nil {
		return err
	}
	if _, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func (worker) Work(ctx context.Context, job *river.Job[message]) error {
	if m.work > 0 {
		time.Sleep(m.work)
	}
	if m.effects != nil {
		if err := effect(ctx, job); err != nil {
			return err
		}
	}
	now, at := time.Now(), wall()
	m.Lock()
	defer m.Unlock()
	m.done++
	m.last = now
	if job.Args.At > 0 {
		m.all = append(m.all, latency{now.Sub(m.begun).Seconds(), (at - job.Args.At) * 1000})
	}
	if m.log != nil {
		_, err := fmt.Fprintf(m.log, "%d %.3f\n", job.Args.N, at)
		return err
	}
	return nil
}

// Until the time is over, or nothing has come for half a second when the queue is to be emptied.
func finished(untilEmpty bool) float64 {
	for {
		if untilEmpty {
			time.Sleep(20 * time.Millisecond)
		} else { // an idle worker is to be idle
			time.Sleep(time.Duration(m.seconds*float64(time.Second)) - time.Since(m.begun) + time.Millisecond)
		}
		m.Lock()
		last, done := m.last, m.done
		m.Unlock()
		if untilEmpty && (done > 0 && time.Since(last) > time.Second/2 || time.Since(last) > 3*time.Second) {
			return last.Sub(m.begun).Seconds()
		}
		if elapsed := time.Since(m.begun).Seconds(); elapsed > m.seconds {
			return elapsed
		}
	}
}

func percentiles(result map[string]any, prefix string, from, to float64) {
	var ms []float64
	for _, l := range m.all {
		if l.elapsed >= from && l.elapsed <= to {
			ms = append(ms, l.ms)
		}
	}
	if len(ms) == 0 {
		return
	}
	sort.Float64s(ms)
	for name, p := range map[string]float64{"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99} {
		result[prefix+name] = ms[int(p*float64(len(ms)-1)+0.5)]
	}
}

// The result; then the connections stay until the runner has read its counters.
func report(done int64, elapsed float64) {
	m.Lock()
	cpu, rss := usedCPU()
	result := map[string]any{"done": done, "seconds": elapsed, "cpu_s": cpu - m.cpu, "rss_kb": rss}
	percentiles(result, "", 0, 1e9)
	percentiles(result, "early_", 0, m.seconds/3)
	percentiles(result, "late_", m.seconds*2/3, 1e9)
	m.Unlock()
	check(json.NewEncoder(os.Stdout).Encode(result))
	_, err := io.Copy(io.Discard, m.input)
	check(err)
}

func connect(ctx context.Context, connections int32) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(os.Getenv("PEERS_URL"))
	check(err)
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	check(err)
	check(pool.Ping(ctx))
	return pool
}

func newClient(pool *pgxpool.Pool, workers int, lease time.Duration) *river.Client[pgx.Tx] {
	config := &river.Config{FetchCooldown: river.FetchCooldownMin, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))}
	if lease > 0 {
		config.JobTimeout, config.RescueStuckJobsAfter = lease-time.Second, lease
	}
	config.Workers = river.NewWorkers()
	river.AddWorker(config.Workers, worker{})
	if workers > 0 {
		config.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}}
	}
	client, err := river.NewClient(riverpgxv5.New(pool), config)
	check(err)
	return client
}

func enqueue(ctx context.Context, client *river.Client[pgx.Tx], first int64, group int, at float64) {
	pad := strings.Repeat(".", 56)
	if group == 1 {
		_, err := client.Insert(ctx, message{first, at, pad}, nil)
		check(err)
		return
	}
	params := make([]river.InsertManyParams, group)
	for i := range params {
		params[i].Args = message{first + int64(i), at, pad}
	}
	_, err := client.InsertManyFast(ctx, params)
	check(err)
}

func setup(ctx context.Context) {
	pool := connect(ctx, 2)
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	check(err)
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	check(err)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		check(errors.New("no build info"))
	}
	for _, module := range info.Deps {
		if module.Path == "github.com/riverqueue/river" {
			fmt.Printf("{\"version\":%q}\n", strings.TrimPrefix(module.Version, "v"))
		}
	}
}

func fill(ctx context.Context, o options) {
	pool := connect(ctx, 2)
	defer pool.Close()
	client := newClient(pool, 0, 0)
	count := int64(o.number("count", 0))
	for n := int64(1); n <= count; n += 1000 {
		enqueue(ctx, client, n, int(min(1000, count-n+1)), 0)
	}
}

func produce(ctx context.Context, o options) {
	pool := connect(ctx, 2)
	defer pool.Close()
	client := newClient(pool, 0, 0)
	group, rate := int(o.number("group", 1)), o.number("rate", 0)
	ready(o)
	n, at := int64(0), m.begun
	for at.Sub(m.begun).Seconds() < m.seconds {
		if rate > 0 {
			time.Sleep(time.Until(at))
		}
		enqueue(ctx, client, n+1, group, float64(at.UnixNano())/1e9)
		n += int64(group)
		// The next one is due at its time, however long this one took.
		if rate > 0 {
			at = at.Add(time.Duration(float64(time.Second) / rate))
		} else {
			at = time.Now()
		}
	}
	report(n, time.Since(m.begun).Seconds())
}

func work(ctx context.Context, o options, workers int, untilEmpty bool) {
	pool := connect(ctx, int32(min(workers, 24)+4))
	client := newClient(pool, workers, time.Duration(o.number("lease_ms", 0))*time.Millisecond)
	if o.number("effects", 0) > 0 {
		m.effects = pool
	}
	ready(o)
	check(client.Start(ctx))
	elapsed := finished(untilEmpty)
	m.Lock()
	done := m.done
	m.Unlock()
	report(done, elapsed)
}

func main() {
	ctx := context.Background()
	if len(os.Args) < 2 {
		check(errors.New("usage: PEERS_URL=URL river COMMAND [KEY=VALUE...]"))
	}
	o := options{}
	for _, argument := range os.Args[2:] {
		key, value, _ := strings.Cut(argument, "=")
		o[key] = value
	}
	switch os.Args[1] {
	case "setup":
		setup(ctx)
	case "fill":
		fill(ctx, o)
	case "produce":
		produce(ctx, o)
	case "fetch":
		work(ctx, o, int(o.number("batch", 1)), true)
	case "handle":
		work(ctx, o, int(o.number("concurrency", 4)), o.number("until_empty", 0) > 0)
	default:
		check(fmt.Errorf("unknown command %s", os.Args[1]))
	}
}
