package ledger

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// childEnv makes the test binary the child of TestKill.
const childEnv = "WEIR_TEST_LEDGER_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir, os.Getenv(childEnv+"_RUN"))
		return
	}
	os.Exit(m.Run())
}

// childWorkers write at full speed; every tenth request of each stays open.
const childWorkers = 4

// child writes until it is killed. What it prints is what the parent may rely on: "c N" means that every request of
// every worker with a number below N was committed, or is one of those that stay open, before two whole flushes of the timer.
func child(dir, run string) {
	l, err := Open(dir, Options{
		Now: time.Now, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		FlushEvery: 2 * time.Millisecond, SyncEvery: 10 * time.Millisecond, SweepEvery: 20 * time.Millisecond,
		SegmentBytes: 64 << 10, journalBytes: 8 << 10,
	})
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	var done [childWorkers]atomic.Int64
	var wg sync.WaitGroup
	for w := range childWorkers {
		wg.Go(func() {
			ended := int64(0)
			for n := int64(0); ; n++ {
				in := intent(childID(run, w, n))
				in.Time = time.Now()
				l.Begin(in)
				// For a while requests end at once, and for a while some flushes after they began.
				lag := int64(100)
				if n%512 >= 256 {
					lag = 0
				}
				for ; ended <= n-lag; ended++ {
					if ended%10 != 9 {
						e := entry(childID(run, w, ended))
						e.Time = time.Now()
						l.Commit(e)
					}
				}
				done[w].Store(ended)
				if n%64 == 63 {
					// The speed of the disk, not of memory: the buffers must not fill up.
					for f := l.Stats().Flushes; l.Stats().Flushes == f; {
						time.Sleep(100 * time.Microsecond)
					}
				}
			}
		})
	}
	for {
		safe := done[0].Load()
		for w := range done {
			safe = min(safe, done[w].Load())
		}
		for first := l.Stats().Flushes; l.Stats().Flushes < first+2; {
			time.Sleep(200 * time.Microsecond)
		}
		if s := l.Stats(); s.DroppedEntries > 0 || s.DroppedIntents > 0 {
			fmt.Printf("failed: dropped %+v\n", s)
			os.Exit(1)
		}
		fmt.Println("c", safe)
	}
}

func childID(run string, worker int, n int64) string { return fmt.Sprintf("%s-%d-%d", run, worker, n) }

// TestKill kills a writing process at random moments and looks at what it left behind, after every kill, and after
// the next process has taken over.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	const runs = 25
	safe := map[string]int64{}
	for run := range runs {
		name := strconv.Itoa(run)
		safe[name] = runAndKill(t, dir, name)
	}
	l, err := Open(dir, Options{Now: time.Now, Log: quiet(), FlushEvery: never, SyncEvery: never, SweepEvery: never})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	found := all(t, dir) // fails on doubles
	total, interrupted := int64(0), 0
	for run, n := range safe {
		total += n
		for w := range childWorkers {
			for i := range n {
				e, ok := found[childID(run, w, i)]
				if !ok {
					t.Fatalf("request %d of worker %d in run %s is missing; all below %d were safe", i, w, run, n)
				}
				if left := i%10 == 9; e.Interrupted != left || e.Estimated != left {
					t.Fatalf("request %d of worker %d in run %s has flags %+v", i, w, run, e.Flags)
				}
			}
		}
	}
	for id, e := range found {
		if e.Interrupted {
			interrupted++
			if e.Tokens != intent(id).Tokens || e.Cost != intent(id).Cost {
				t.Fatalf("interrupted %s is %+v", id, e)
			}
		} else if e.Tokens != entry(id).Tokens || e.Cost != entry(id).Cost {
			t.Fatalf("%s is %+v", id, e)
		}
	}
	if total == 0 || interrupted == 0 {
		t.Fatalf("the children got nothing done: %d safe, %d interrupted", total, interrupted)
	}
	if left := glob(t, dir, "*/intents-*"); len(left) > 0 {
		t.Errorf("journals are left: %v", left)
	}
	sums, err := Read(context.Background(), dir, Query{})
	if err != nil || len(sums.Rows) != 1 || sums.Rows[0].Requests != int64(len(found)) || sums.Rows[0].Interrupted != int64(interrupted) {
		t.Errorf("sums are %+v, %v; there are %d entries, %d interrupted", sums, err, len(found), interrupted)
	}
	t.Logf("%d runs: %d entries, at least %d safe, %d interrupted, %d segments", runs, len(found), total*childWorkers, interrupted, len(glob(t, dir, "*/entries-*.gz")))
}

// runAndKill returns the number below which all requests were safe when the child was killed.
func runAndKill(t *testing.T, dir, run string) int64 {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+dir, childEnv+"_RUN="+run)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	// The moment is random in the number of reports, and within the report by a spin of random length.
	// Without a report it is often killed while it repairs what the one before it left.
	reports, spin := rand.IntN(10), time.Duration(rand.Int64N(int64(5*time.Millisecond)))
	if reports == 0 {
		spin *= 8
	}
	lines := bufio.NewReader(out)
	var safe int64
	read := func() bool {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			return false
		}
		if _, scanErr := fmt.Sscanf(line, "c %d\n", &safe); err != nil || scanErr != nil {
			t.Fatalf("the child said %q: %v\n%s", line, err, stderr.String())
		}
		return true
	}
	for range reports {
		if !read() {
			t.Fatalf("the child ended by itself: %s", stderr.String())
		}
	}
	for end := time.Now().Add(spin); time.Now().Before(end); {
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for read() { // what it had said before it died holds as well
	}
	return safe
}
