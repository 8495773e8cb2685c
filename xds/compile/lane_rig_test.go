package compile

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/wire"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// door is a real Envoy with the listeners and routes of a configuration, in front of a server that says what it was sent. The test plays
// Weir: it decides, it receives the records, and it has the lanes' file mapped.
type door struct {
	alsv3.UnimplementedAccessLogServiceServer
	extprocv3.UnimplementedExternalProcessorServer

	t    testing.TB
	url  string
	pid  int
	key  string // of the direct route
	file *laneFile

	decide func(*question) reply
	asked  atomic.Int64
	calls  atomic.Int64 // sent so far

	mu      sync.Mutex
	records map[string]*datav3.HTTPAccessLogEntry // by request ID
	// questions are those that were asked, and answers the requests whose answers were sent to Weir, by request ID too.
	questions map[string]*question
	answers   map[string]bool
}

// question is a request that Weir is asked about.
type question struct {
	headers map[string]string
	peek    map[string]*structpb.Value
}

func (q *question) text(key string) string { return q.peek[key].GetStringValue() }

// reply is what Weir says of a request.
type reply struct {
	facts map[string]string
	mode  *filterv3.ProcessingMode
}

// doorOptions are what differs between the doors of tests.
type doorOptions struct {
	documents string                  // with UPSTREAM in the place of the server's address
	workers   int                     // default: 1
	off       bool                    // no lanes are compiled
	spoil     func(path string) error // does something to the file before Envoy starts
}

const laneDocuments = docGateway + docCaller + docRoute + `
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: a}
spec: {dialect: openai, url: 'http://UPSTREAM/v1'}
`

func newDoor(t testing.TB, o doorOptions) *door {
	t.Helper()
	bin, err := envoy.Ensure(context.Background(), envoy.FindOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if o.documents == "" {
		o.documents = laneDocuments
	}
	o.workers = max(o.workers, 1)
	d := &door{t: t, records: map[string]*datav3.HTTPAccessLogEntry{}, questions: map[string]*question{}, answers: map[string]bool{}}
	d.decide = func(*question) reply { return reply{facts: map[string]string{}} }
	dir, err := os.MkdirTemp("", "weir-door-") // its name is short, as the path of a unix socket must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	upstream := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(upstream.Close)

	lanes := filepath.Join(dir, "lanes")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(lanes, 0o700))
	d.file = newLaneFile(t, filepath.Join(lanes, "file"))
	if o.spoil != nil {
		must(o.spoil(filepath.Join(lanes, "file")))
	}
	opts := options(t)
	opts.Listen, opts.SystemCAs = "127.0.0.1:0", ""
	if !o.off {
		opts.LaneFile = filepath.Join(lanes, "file")
	}
	v, problems := Compile(load(t, strings.ReplaceAll(o.documents, "UPSTREAM", upstream.Listener.Addr().String())), opts)
	if v == nil {
		t.Fatal(problems)
	}
	for _, r := range v.Table.All() {
		d.key = r.Variant(r.Capable("m", "")).DirectKey
	}
	d.serve(filepath.Join(dir, "weir.sock"))
	d.run(bin.Path, dir, o.workers, v)
	return d
}

// serve answers Envoy on a socket.
func (d *door) serve(socket string) {
	d.t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		d.t.Fatal(err)
	}
	g := grpc.NewServer(grpc.MaxConcurrentStreams(math.MaxUint32))
	extprocv3.RegisterExternalProcessorServer(g, d)
	alsv3.RegisterAccessLogServiceServer(g, d)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(l) })
	d.t.Cleanup(func() { g.Stop(); wg.Wait() })
}

// run starts Envoy and waits until it listens.
func (d *door) run(path, dir string, workers int, v *Version) {
	d.t.Helper()
	admin := filepath.Join(dir, "admin.sock")
	boot := filepath.Join(dir, "envoy.json")
	raw := static(d.t, v, envoy.BootstrapOptions{AdminSocket: admin, XDSSocket: filepath.Join(dir, "weir.sock")})
	if err := os.WriteFile(boot, raw, 0o600); err != nil {
		d.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "envoy.log"))
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", boot, "--concurrency", fmt.Sprint(workers), "--use-dynamic-base-id", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.pid = cmd.Process.Pid
	d.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		said, _ := os.ReadFile(log.Name())
		_ = log.Close()
		for line := range strings.Lines(string(said)) {
			if strings.Contains(line, "[lua]") || strings.Contains(line, "critical") || d.t.Failed() {
				d.t.Errorf("Envoy says: %s", line)
			}
		}
	})
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", admin)
	}}}
	defer client.CloseIdleConnections()
	d.eventually("Envoy listens", func() bool {
		resp, err := client.Get("http://admin/listeners?format=json")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var said struct {
			Statuses []struct {
				Address struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if json.NewDecoder(resp.Body).Decode(&said) != nil || len(said.Statuses) == 0 {
			return false
		}
		d.url = fmt.Sprintf("http://127.0.0.1:%d", said.Statuses[0].Address.Socket.Port)
		return true
	})
}

// eventually waits for what must come.
func (d *door) eventually(what string, is func() bool) {
	d.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// echo is a backend that says what it was sent. It streams where it is asked to, with the usage where it is asked for that.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if strings.Contains(string(body), `"stream":true`) {
		w.Header().Set("content-type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n")
		if strings.Contains(string(body), `"include_usage":true`) {
			_, _ = io.WriteString(w, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n")
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
		return
	}
	said := map[string]string{":path": r.URL.RequestURI(), ":body": string(body), ":authority": r.Host}
	for name, values := range r.Header {
		said[strings.ToLower(name)] = strings.Join(values, ",")
	}
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(said)
}

// sentTo reads what echo says; nothing where it streams.
func sentTo(answer []byte) map[string]string {
	out := map[string]string{}
	_ = json.Unmarshal(answer, &out)
	return out
}

// Process plays Weir. It decides, and lets answers pass that were asked for.
func (d *door) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	id := ""
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil // Envoy needs it no more
		}
		var resp *extprocv3.ProcessingResponse
		switch r := m.GetRequest().(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
			q := &question{headers: map[string]string{}, peek: m.GetMetadataContext().GetFilterMetadata()[wire.PeekNamespace].GetFields()}
			for _, h := range r.RequestHeaders.GetHeaders().GetHeaders() {
				q.headers[h.GetKey()] += string(h.GetRawValue())
			}
			id = q.headers["x-request-id"]
			d.asked.Add(1)
			d.mu.Lock()
			d.questions[id] = q
			said := d.decide(q)
			d.mu.Unlock()
			resp = said.message(d.key)
		case *extprocv3.ProcessingRequest_ResponseHeaders:
			d.mu.Lock()
			d.answers[id] = true
			d.mu.Unlock()
			resp = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}}}
		default:
			return fmt.Errorf("%T was not asked for", r)
		}
		if err := stream.Send(resp); err != nil {
			return nil
		}
	}
}

// message sends a request on by a direct route.
func (r reply) message(key string) *extprocv3.ProcessingResponse {
	common := &extprocv3.CommonResponse{ClearRouteCache: true, HeaderMutation: &extprocv3.HeaderMutation{}}
	for name, value := range map[string]string{wire.RuleHeader: key, wire.PathHeader: "/chat/completions"} {
		common.HeaderMutation.SetHeaders = append(common.HeaderMutation.SetHeaders, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	facts := map[string]*structpb.Value{}
	for key, value := range r.facts {
		facts[key] = structpb.NewStringValue(value)
	}
	return &extprocv3.ProcessingResponse{
		Response:     &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}},
		ModeOverride: r.mode,
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			wire.DecisionNamespace: structpb.NewStructValue(&structpb.Struct{Fields: facts}),
		}},
	}
}

// StreamAccessLogs keeps the records of requests.
func (d *door) StreamAccessLogs(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil
		}
		d.mu.Lock()
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			if e.GetCommonProperties().GetAccessLogType() != datav3.AccessLogType_UpstreamEnd { // an attempt
				d.records[e.GetRequest().GetRequestId()] = e
			}
		}
		d.mu.Unlock()
	}
}

// laneFile is the file of lanes, as package lane lays it out.
type laneFile struct {
	memory []byte
	f      *os.File // has the lock that says that Weir lives
}

const (
	laneHead, laneSlot, laneSlots = 64, 64, 4096
	laneMagic, laneLayout         = 0x52494557, 1
)

func newLaneFile(t testing.TB, path string) *laneFile {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(laneHead + laneSlot*laneSlots); err != nil {
		t.Fatal(err)
	}
	memory, err := syscall.Mmap(int(f.Fd()), 0, laneHead+laneSlot*laneSlots, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(memory) })
	l := &laneFile{memory, f}
	l.lock(t, unix.F_WRLCK)
	l.word(0).Store(laneMagic)
	l.word(4).Store(laneLayout)
	l.alive(time.Now().Add(time.Hour))
	return l
}

func (l *laneFile) word(at int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&l.memory[at]))
}

func (l *laneFile) number(at int, v float64) {
	(*atomic.Uint64)(unsafe.Pointer(&l.memory[at])).Store(math.Float64bits(v))
}

// lock says that Weir lives, by F_WRLCK, or has died, by F_UNLCK.
func (l *laneFile) lock(t testing.TB, kind int16) {
	t.Helper()
	const set = 37 // F_OFD_SETLK
	if err := unix.FcntlFlock(l.f.Fd(), set, &unix.Flock_t{Type: kind}); err != nil {
		t.Fatal(err)
	}
}

// alive says until when lanes may be used.
func (l *laneFile) alive(until time.Time) { l.number(8, float64(until.UnixMilli())) }

// The words of a slot.
func (l *laneFile) generation(slot int) *atomic.Uint32 { return l.word(laneHead + laneSlot*slot) }
func (l *laneFile) granted(slot int) *atomic.Uint32    { return l.word(laneHead + laneSlot*slot + 4) }
func (l *laneFile) used(slot int) *atomic.Uint32       { return l.word(laneHead + laneSlot*slot + 8) }

// limits are what answers in a lane say of limits: requests, their reset, tokens, their reset, tokens of each request.
func (l *laneFile) limits(slot int, values ...float64) {
	for i, v := range values {
		l.number(laneHead+laneSlot*slot+16+8*i, v)
	}
}

// open takes a slot into use, and gives the ticket.
func (l *laneFile) open(slot int, generation, granted uint32) string {
	l.used(slot).Store(0)
	l.limits(slot, math.NaN(), 0, math.NaN(), 0, 0)
	l.granted(slot).Store(granted)
	l.generation(slot).Store(generation)
	return fmt.Sprintf("%d:%d:%s", slot, generation, lanePrefix(slot, generation))
}

// lanePrefix is what the exchanges of a lane begin with.
func lanePrefix(slot int, generation uint32) string { return fmt.Sprintf("x%d-%d-", slot, generation) }

// lane is what a decision says to begin a lane.
func (d *door) lane(ticket string) map[string]string {
	return map[string]string{wire.KeyLane: ticket, wire.KeyLaneRule: d.key, wire.KeyLanePath: "/chat/completions", wire.KeyLaneSample: "1"}
}
