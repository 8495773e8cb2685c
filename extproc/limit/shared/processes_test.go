package shared_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

// childEnv holds the job of a test binary that runs as a replica.
const childEnv = "WEIR_TEST_REPLICA"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		var j job
		if err := json.Unmarshal([]byte(text), &j); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := j.run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// job is what a replica is told to do.
type job struct {
	Addr, ID string
	Replicas int
	Rule     limit.Rule
	Estimate limit.Estimate
	// Requests at once, or workers that ask again and again for For, and until this replica has had Least admitted.
	Requests int
	For      time.Duration
	Least    int
}

// admission is when a request was admitted: between the two, Unix nanoseconds.
type admission struct{ From, To int64 }

// report is what a replica says.
type report struct {
	Admitted []admission
	Refused  int
	Bound    int64
}

// run is a replica: it says when it is ready, begins when it is told to, reports, and ends with its input.
func (j job) run() error {
	conn, err := redisconn.Open(redisconn.Config{Addresses: []string{j.Addr}, Timeout: patience}, redisconn.Options{})
	if err != nil {
		return err
	}
	defer conn.Close()
	r, err := shared.New(shared.Options{Conn: conn, Prefix: "test", ID: j.ID})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	e := limit.New(limit.Options{Remote: r, Timeout: patience})
	defer e.Close(ctx)

	for r.Replicas() < j.Replicas {
		if err := r.Ping(ctx); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond) // until the others have come
	}
	in := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}

	rules := []*limit.Rule{&j.Rule}
	var mu sync.Mutex
	var out report
	var held []*limit.Grant
	admit := func() (admitted int) {
		from := time.Now().UnixNano()
		g, refusal := e.Admit(ctx, rules, limit.Subject{Tenant: "t"}, j.Estimate)
		to := time.Now().UnixNano()
		mu.Lock()
		if refusal == nil {
			out.Admitted = append(out.Admitted, admission{from, to})
			held = append(held, g)
		} else {
			out.Refused++
		}
		admitted = len(out.Admitted)
		mu.Unlock()
		if refusal != nil && j.For > 0 {
			time.Sleep(time.Millisecond) // before this caller asks again
		}
		return admitted
	}
	var requests sync.WaitGroup
	end := time.Now().Add(j.For)
	for range j.Requests {
		requests.Go(func() {
			n := admit()
			for now := time.Now(); j.For > 0 && (now.Before(end) || n < j.Least && now.Before(end.Add(patience))); now = time.Now() {
				n = admit()
			}
		})
	}
	requests.Wait()
	for _, s := range e.States(0) {
		out.Bound = max(out.Bound, s.Bound)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	_, _ = io.Copy(io.Discard, in) // what it holds it holds until all have reported
	for _, g := range held {
		g.Cancel()
	}
	return nil
}

// replicas runs the job in as many processes, all at the same time.
func replicas(t *testing.T, j job) []report {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]report, j.Replicas)
	var ready, wg sync.WaitGroup
	ready.Add(j.Replicas)
	start, done := make(chan struct{}), make(chan struct{})
	var reported atomic.Int64
	for i := range out {
		j.ID = fmt.Sprintf("replica-%d", i)
		text, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childEnv+"="+string(text))
		var errors strings.Builder
		cmd.Stderr = &errors
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		wg.Go(func() {
			lines := bufio.NewReader(stdout)
			_, err := lines.ReadString('\n')
			ready.Done()
			<-start
			if err == nil {
				_, err = io.WriteString(stdin, "go\n")
			}
			if err == nil {
				err = json.NewDecoder(lines).Decode(&out[i])
			}
			if reported.Add(1) == int64(j.Replicas) {
				close(done)
			}
			<-done
			_ = stdin.Close()
			if waitErr := cmd.Wait(); err == nil {
				err = waitErr
			}
			if err != nil {
				t.Errorf("replica %d: %v: %s", i, err, errors.String())
			}
		})
	}
	ready.Wait()
	close(start)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return out
}

// TestManyReplicasOneLimit has 2,000 requests come at once to 8 processes, where there is room for 500.
func TestManyReplicasOneLimit(t *testing.T) {
	const processes, requests, room = 8, 2000, 500
	tokens := limit.Estimate{Input: 37, HasMax: true}
	money := limit.Estimate{Cost: 37_000_001, HasMax: true}
	rules := map[string]struct {
		rule limit.Rule
		est  limit.Estimate
		unit int64 // that a request reserves
	}{
		"requests":   {limit.Rule{Unit: limit.Requests, Window: time.Hour}, tokens, 1},
		"tokens":     {limit.Rule{Unit: limit.InputTokens, Window: time.Hour}, tokens, 37},
		"money":      {limit.Rule{Unit: limit.Cost, Window: time.Hour}, money, 37_000_001},
		"bucket":     {limit.Rule{Unit: limit.InputTokens, Algorithm: limit.TokenBucket, Window: 24 * time.Hour}, tokens, 37},
		"budget":     {limit.Rule{Unit: limit.Cost, Algorithm: limit.Calendar, Period: limit.Month}, money, 37_000_001},
		"concurrent": {limit.Rule{Unit: limit.Concurrent}, tokens, 1},
	}
	for name, x := range rules {
		for mode, sharing := range map[string]limit.Mode{"exact": limit.Exact, "lease": limit.Lease} {
			t.Run(name+" "+mode, func(t *testing.T) {
				s := redistest.Start(t)
				r := x.rule
				r.ID, r.Name, r.Sharing, r.OnFailure = "limit", "limit", sharing, limit.Deny
				r.Limit = room * x.unit
				if r.Algorithm == limit.TokenBucket {
					r.Burst, r.Limit = r.Limit, 1 // nothing flows in meanwhile
				}
				var admitted, asked, bound int64
				for _, one := range replicas(t, job{Addr: s.Addr, Replicas: processes, Rule: r, Estimate: x.est, Requests: requests / processes}) {
					admitted += int64(len(one.Admitted))
					asked += int64(len(one.Admitted) + one.Refused)
					bound = max(bound, one.Bound)
				}
				if asked != requests {
					t.Fatalf("%d requests were made, not %d", asked, requests)
				}
				t.Logf("%d of %d admitted; stated bound %d units", admitted, requests, bound)
				if sharing == limit.Exact {
					if bound != 0 || admitted != room {
						t.Errorf("%d of %d requests were admitted where there is room for %d", admitted, requests, room)
					}
					return
				}
				if over := admitted*x.unit - room*x.unit; over > bound {
					t.Errorf("%d units beyond the limit, the stated bound is %d", over, bound)
				}
				// What lies unused in pools is no more than the pools may hold; a concurrent limit states no bound, its
				// pools are of the same size.
				if idle := (room - admitted) * x.unit; idle > room*x.unit/8+processes*x.unit {
					t.Errorf("%d units of %d were not to be had", idle, room*x.unit)
				}
			})
		}
	}
}

// TestWindowsOfManyReplicas has 8 processes ask without pause for some windows, and looks at each window.
func TestWindowsOfManyReplicas(t *testing.T) {
	const processes, most, length = 8, 400, time.Second
	for mode, sharing := range map[string]limit.Mode{"exact": limit.Exact, "lease": limit.Lease} {
		t.Run(mode, func(t *testing.T) {
			s := redistest.Start(t)
			r := limit.Rule{ID: "limit", Name: "limit", Limit: most, Window: length, Sharing: sharing, OnFailure: limit.Deny}
			var all []admission
			var bound int64
			for _, one := range replicas(t, job{Addr: s.Addr, Replicas: processes, Rule: r, Requests: 4, For: 3 * length, Least: 2 * most / processes}) {
				all = append(all, one.Admitted...)
				bound = max(bound, one.Bound)
			}
			if sharing == limit.Lease && (bound < 1 || bound > most/8+processes) {
				t.Fatalf("the stated bound is %d", bound)
			}
			slices.SortFunc(all, func(a, b admission) int { return int(a.From - b.From) })
			worst := int64(0)
			for i, first := range all {
				var n int64
				for _, x := range all[i:] {
					// Only what was admitted in the window without doubt: between From and To lies the moment.
					if x.To < first.From+int64(length) {
						n++
					}
				}
				worst = max(worst, n)
			}
			t.Logf("%d admitted in all, %d in the fullest window of at most %d; stated bound %d", len(all), worst, most, bound)
			if worst > most+bound {
				t.Errorf("a window held %d requests: more than %d and the stated bound of %d", worst, most, bound)
			}
			if len(all) < 2*most {
				t.Errorf("%d requests in three windows and more: the limit is not used", len(all))
			}
		})
	}
}
