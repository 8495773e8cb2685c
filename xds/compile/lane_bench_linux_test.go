package compile

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/wire"
)

// BenchmarkDoor measures what a request costs Envoy, in microseconds of its processors' time: asked for, and in a lane. Weir answers
// without thinking.
func BenchmarkDoor(b *testing.B) {
	for name, o := range map[string]struct {
		doorOptions
		ticket, stream bool
	}{
		"asked": {doorOptions: doorOptions{off: true}}, "asked, with lanes": {}, "lane": {ticket: true}, "stream in a lane": {ticket: true, stream: true},
	} {
		b.Run(name, func(b *testing.B) {
			d := newDoor(b, o.doorOptions)
			facts := map[string]string{
				wire.KeyVersion: "0123456789ab", wire.KeyConsumer: "app", wire.KeyTenant: "acme", wire.KeyCredential: "key default/app",
				wire.KeyOperation: "chat", wire.KeyModel: "gpt-4o-mini", wire.KeyRoute: "default/all", wire.KeyDialect: "openai",
				wire.KeyTrace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333", wire.KeyTraceFlags: "-01",
				wire.KeyLimitRequests: "10000000", wire.KeyRemainingRequests: "9999999", wire.KeyResetRequests: "60",
				wire.KeyLimitTokens: "1000000000", wire.KeyRemainingTokens: "999999999", wire.KeyResetTokens: "60",
				wire.KeyExchange: "0123456789abcdef-1",
			}
			if o.ticket {
				ticket := d.file.open(0, 1, math.MaxUint32)
				d.file.limits(0, 1e9, 60, 1e12, 60, 100)
				for key, value := range d.lane(ticket) {
					facts[key] = value
				}
			}
			d.decide = func(*question) reply { return reply{facts: facts} }
			body := `{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are helpful."},{"role":"user","content":"Hello there, how are you?"}],"max_tokens":128`
			if o.stream {
				body += `,"stream":true,"stream_options":{"include_usage":true}`
			}
			body += "}"
			const connections = 16
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
			defer client.CloseIdleConnections()
			one := func() {
				req, err := http.NewRequest(http.MethodPost, d.url+"/v1/chat/completions", strings.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set("authorization", "Bearer sk-0123456789abcdef0123456789abcdef")
				req.Header.Set("content-type", "application/json")
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				defer resp.Body.Close()
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
					b.Errorf("%s: %v", resp.Status, err)
				}
			}
			run := func(n int) {
				var wg sync.WaitGroup
				for range connections {
					wg.Go(func() {
						for range n / connections {
							one()
						}
					})
				}
				wg.Wait()
			}
			run(1600)
			before := cpuTime(b, d.pid)
			b.ResetTimer()
			run(max(b.N, connections))
			b.StopTimer()
			b.ReportMetric(float64((cpuTime(b, d.pid)-before).Nanoseconds())/1e3/float64(max(b.N, connections)), "envoy-us/op")
		})
	}
}

// cpuTime is how long the threads of a process have run.
func cpuTime(t testing.TB, pid int) (sum time.Duration) {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no times of process %d: %v", pid, err)
	}
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			continue // a thread that has just ended
		}
		n, err := strconv.ParseInt(strings.Fields(string(raw))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(n)
	}
	return sum
}
