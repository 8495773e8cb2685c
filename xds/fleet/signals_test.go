package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/xds/load/signal"
)

// ear is a client that hears signals.
type ear struct {
	*Client
	stop func()

	mu    sync.Mutex
	heard []signal.Shared
	calls int
}

func (r *rig) ear(wanted []string, change func(*ClientOptions)) *ear {
	r.t.Helper()
	opts := ClientOptions{
		Addresses: []string{"control:1"}, ServerName: controlName, Node: Node{ID: "team-a/gateway-0"}, Log: r.log, Random: func() float64 { return 0 }, Dial: r.dial,
		TLS: r.ca.issue(r.t, r.t.TempDir(), "gateway.team-a.svc", 1000*time.Hour),
	}
	if change != nil {
		change(&opts)
	}
	client, err := NewClient(opts)
	if err != nil {
		r.t.Fatal(err)
	}
	e := &ear{Client: client}
	if wanted != nil {
		client.Want(wanted)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		client.Signals(ctx, e.take)
		close(done)
	}()
	e.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	r.t.Cleanup(e.stop)
	return e
}

func (e *ear) take(signals []signal.Shared) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = append(e.heard, signals...)
	e.calls++
}

// all is what was heard since the last call, as "endpoint=waiting", and in how many messages.
func (e *ear) all() (heard string, calls int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, s := range e.heard {
		out = append(out, fmt.Sprintf("%s=%g", s.Endpoint, s.Sample.Waiting))
	}
	slices.Sort(out)
	calls = e.calls
	e.heard, e.calls = nil, 0
	return strings.Join(out, " "), calls
}

// last is what was heard since the last call of all.
func (e *ear) last() []signal.Shared {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.heard)
}

func (e *ear) want(t *testing.T, want string) {
	t.Helper()
	if got, _ := e.all(); got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// waiting is a reading of now.
func waiting(backend, endpoint string, v float64) signal.Shared {
	return signal.Shared{
		Backend: backend, Endpoint: endpoint, Of: 7, At: time.Now(), Reading: uint64(time.Now().UnixNano()) + uint64(v),
		Sample: signal.Sample{At: time.Now(), Waiting: v, Has: signal.Set(0).With(signal.Waiting)},
	}
}

func TestSignalsReachGateways(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		reg := prometheus.NewRegistry()
		server := r.control("control:1", func(o *ServerOptions) { o.Registry = reg })
		defer server.stop()
		s := server.Signals()
		s.Post(waiting("a/x", "e1", 1), false)
		s.Post(waiting("a/y", "e2", 2), false)
		s.Post(waiting("b/z", "e3", 3), false)
		time.Sleep(time.Second)
		one := r.ear([]string{"a/x", "a/y"}, nil)
		defer one.stop()
		two := r.ear([]string{"b/z"}, nil)
		defer two.stop()
		late := r.ear(nil, nil) // does not know yet what it wants
		defer late.stop()
		settle()
		// Readings are as old as they were.
		for _, h := range one.last() {
			if age := time.Since(h.At); age != time.Second || !h.Sample.At.Equal(h.At) || h.Of != 7 || h.Source != 0 || h.Reading == 0 {
				t.Errorf("heard %+v, %v old", h, age)
			}
		}
		one.want(t, "e1=1 e2=2")
		two.want(t, "e3=3")
		late.want(t, "")

		// A burst is one message for those that it is for: the first at once, the others after 100 ms, and of each source the newest.
		for i := range 5 {
			for n := range 3 {
				s.Post(waiting("a/x", fmt.Sprint("e", i), float64(10+n)), false)
				settle()
			}
		}
		if got, calls := one.all(); calls != 1 || got != "e0=10" {
			t.Errorf("%d messages: %s", calls, got)
		}
		time.Sleep(batchEvery)
		settle()
		if got, calls := one.all(); calls != 1 || got != "e0=12 e1=12 e2=12 e3=12 e4=12" {
			t.Errorf("%d messages: %s", calls, got)
		}
		two.want(t, "")
		// Something urgent takes what waits with it.
		s.Post(waiting("a/x", "e1", 20), false)
		time.Sleep(urgentEvery)
		settle()
		one.want(t, "")
		s.Post(waiting("a/x", "e2", 21), true)
		settle()
		one.want(t, "e1=20 e2=21")
		s.Post(waiting("a/x", "e2", 22), true)
		settle()
		one.want(t, "")
		time.Sleep(urgentEvery)
		settle()
		one.want(t, "e2=22")

		// Who wants something else gets what there is of it.
		late.Want([]string{"b/z"})
		one.Want([]string{"b/z"})
		one.Want([]string{"b/z"})
		settle()
		late.want(t, "e3=3")
		one.want(t, "e3=3")
		if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP weir_fleet_signal_streams Gateways that get readings of endpoints.
# TYPE weir_fleet_signal_streams gauge
weir_fleet_signal_streams 3
# HELP weir_fleet_signals_sent_total Readings of endpoints that were sent to gateways.
# TYPE weir_fleet_signals_sent_total counter
weir_fleet_signals_sent_total 14
`), "weir_fleet_signal_streams", "weir_fleet_signals_sent_total"); err != nil {
			t.Error(err)
		}

		// What is not read any more is told to nobody who comes.
		s.Keep(func(s *signal.Shared) bool { return s.Endpoint != "e3" })
		another := r.ear([]string{"b/z"}, nil)
		defer another.stop()
		settle()
		another.want(t, "")
		s.Post(waiting("b/z", "e3", 5), false)
		time.Sleep(batchEvery)
		settle()
		for _, e := range []*ear{another, one, two, late} {
			e.want(t, "e3=5")
		}
	})
}

// Sources come and go for as long as the control plane lives: numbers of those that are gone are forgotten everywhere.
func TestNumbersOfSourcesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		s := server.Signals()
		e := r.ear([]string{"a/x"}, nil)
		defer e.stop()
		s.Post(waiting("a/x", "stays", 1), false)
		time.Sleep(batchEvery)
		settle()
		e.want(t, "stays=1")
		for i := range maxDead + 1 {
			s.Post(waiting("a/x", fmt.Sprint("pod", i), 2), false)
		}
		time.Sleep(batchEvery)
		settle()
		e.all()
		s.Post(waiting("a/x", "stays", 3), false)
		s.Keep(func(s *signal.Shared) bool { return s.Endpoint == "stays" })
		settle()
		e.want(t, "stays=3")
		if len(s.sources) != 1 || len(s.numbered) != 1 || s.recent.Len() != 1 || s.now.number != 1 {
			t.Errorf("%d sources and %d numbers, the last is %d", len(s.sources), len(s.numbered), s.now.number)
		}
		s.Post(waiting("a/x", "new", 4), false)
		s.Post(waiting("a/x", "stays", 5), false)
		time.Sleep(batchEvery)
		settle()
		e.want(t, "new=4 stays=5")
		// The same source, asked something else, is another one.
		other := waiting("a/x", "new", 6)
		other.Of = 8
		s.Post(other, false)
		time.Sleep(batchEvery)
		settle()
		if got := e.last(); len(got) != 1 || got[0].Of != 8 {
			t.Errorf("heard %+v", got)
		}
		e.want(t, "new=6")
	})
}

// A gateway that cannot be told for a while gets the newest then, as old as it is.
func TestSlowGatewaySkips(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		s := server.Signals()
		hold := make(chan struct{})
		var e *ear
		first := true
		e = r.ear(nil, nil)
		defer e.stop()
		e.stop()
		client, err := NewClient(e.opts)
		if err != nil {
			t.Fatal(err)
		}
		client.Want([]string{"a/x"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			client.Signals(ctx, func(signals []signal.Shared) {
				e.take(signals)
				if first {
					first = false
					<-hold
				}
			})
			close(done)
		}()
		defer func() { cancel(); <-done }()
		settle()
		const n = 2000
		round := func(v float64) {
			for i := range n {
				s.Post(waiting("a/x", fmt.Sprint("endpoint", i), v), false)
			}
			time.Sleep(batchEvery)
			settle()
		}
		const rounds = 200
		for i := range rounds {
			round(float64(i))
		}
		heard := len(e.last())
		close(hold)
		settle()
		time.Sleep(batchEvery)
		settle()
		e.mu.Lock()
		defer e.mu.Unlock()
		if heard >= n*2 || len(e.heard) >= n*rounds/2 {
			t.Errorf("heard %d while it was slow, and %d in all, of %d", heard, len(e.heard), n*rounds)
		}
		last := map[string]float64{}
		for _, h := range e.heard {
			if old := time.Since(h.At); last[h.Endpoint] > h.Sample.Waiting || old < 0 {
				t.Fatalf("%s went back to %v", h.Endpoint, h.Sample.Waiting)
			}
			last[h.Endpoint] = h.Sample.Waiting
		}
		for _, v := range last {
			if v != rounds-1 {
				t.Fatalf("the last heard is %v", v)
			}
		}
		if len(last) != n {
			t.Errorf("heard of %d endpoints", len(last))
		}
	})
}

// A gateway asks one control plane, learns of the others, and keeps them while the first is away.
func TestSignalsOfAllReplicas(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b, c := r.control("control:1", nil), r.control("10.0.0.2:1", nil), r.control("10.0.0.3:1", nil)
		defer a.stop()
		defer b.stop()
		defer c.stop()
		a.Signals().Replicas(Replicas{Self: "10.0.0.1:1", Others: []string{"10.0.0.2:1"}})
		e := r.ear([]string{"a/x"}, func(o *ClientOptions) { o.ServerName = "" })
		defer e.stop()
		settle()
		e.want(t, "")
		if strings.Contains(r.logs.String(), "10.0.0.2") {
			t.Error("a replica was believed that has another name")
		}
		e.stop()

		e = r.ear([]string{"a/x"}, nil)
		defer e.stop()
		settle()
		post := func(v float64) {
			for i, s := range []*control{a, b, c} {
				s.Signals().Post(waiting("a/x", fmt.Sprint("e", i+1), v), false)
			}
			time.Sleep(batchEvery)
			settle()
		}
		post(1)
		e.want(t, "e1=1 e2=1")
		a.Signals().Replicas(Replicas{Self: "10.0.0.1:1", Others: []string{"10.0.0.3:1"}})
		time.Sleep(urgentEvery)
		settle()
		post(2)
		e.want(t, "e1=2 e3=1 e3=2")
		a.stop()
		time.Sleep(time.Second)
		settle()
		post(3)
		e.want(t, "e3=3")
		// It is back, and shares with others.
		a = r.control("control:1", nil)
		a.Signals().Replicas(Replicas{Self: "10.0.0.1:1", Others: []string{"10.0.0.2:1", "10.0.0.3:1"}})
		time.Sleep(2 * mostSignalWait)
		settle()
		e.all()
		post(4)
		e.want(t, "e1=4 e2=4 e3=4")
		a.Signals().Replicas(Replicas{})
		time.Sleep(batchEvery)
		settle()
		post(5)
		e.want(t, "e1=5")
		a.stop()
		b.stop()
		c.stop()
	})
}

// Who has no certificate of the authority gets no signals, and who sends nonsense is told so.
func TestSignalsNeedACertificate(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", func(o *ServerOptions) { o.Allow = []string{"*.team-a.svc"} })
		defer server.stop()
		server.Signals().Post(waiting("a/x", "e1", 1), false)
		stranger := r.ear([]string{"a/x"}, func(o *ClientOptions) { o.TLS = newAuthority(t).issue(t, t.TempDir(), "gateway.team-a.svc", time.Hour) })
		defer stranger.stop()
		other := r.ear([]string{"a/x"}, func(o *ClientOptions) { o.TLS = r.ca.issue(t, t.TempDir(), "gateway.team-b.svc", time.Hour) })
		defer other.stop()
		good := r.ear([]string{"a/x"}, func(o *ClientOptions) { o.TLS = r.ca.issue(t, t.TempDir(), "gateway.team-a.svc", time.Minute) })
		defer good.stop()
		time.Sleep(batchEvery)
		settle()
		stranger.want(t, "")
		other.want(t, "")
		good.want(t, "e1=1")
		time.Sleep(2 * time.Minute)
		server.Signals().Post(waiting("a/x", "e1", 2), false)
		time.Sleep(batchEvery)
		settle()
		good.want(t, "") // its certificate has expired

		certs, err := newCertificates(r.ca.issue(t, t.TempDir(), "raw.team-a.svc", time.Hour), r.log)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient("passthrough:///control:1", grpc.WithTransportCredentials(newClientCredentials(certs, controlName)),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return r.dial(ctx, address) }))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		stream, err := conn.NewStream(t.Context(), &signalsDesc.Streams[0], "/"+signalsService+"/"+signalsMethod)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(&wrapperspb.BytesValue{Value: []byte{0xff}}); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("got %v", err)
		}
	})
}

func TestEndpointsAreShared(t *testing.T) {
	addresses := []string{"10.0.0.1:18000", "10.0.0.2:18000", "10.0.0.3:18000"}
	owner := func(endpoint string, live ...string) (found string) {
		for _, self := range live {
			others := slices.DeleteFunc(slices.Clone(live), func(a string) bool { return a == self })
			if (Replicas{Self: self, Others: others}).Owns(endpoint) {
				if found != "" {
					t.Fatalf("%s is read by %s and %s", endpoint, found, self)
				}
				found = self
			}
		}
		if found == "" {
			t.Fatalf("nobody reads %s", endpoint)
		}
		return found
	}
	counts := map[string]int{}
	for i := range 3000 {
		e := fmt.Sprintf("10.1.%d.%d:8000", i/250, i%250)
		now := owner(e, addresses...)
		counts[now]++
		// Only what the third read changes hands when it goes.
		if after := owner(e, addresses[:2]...); now != addresses[2] && after != now {
			t.Errorf("%s went from %s to %s", e, now, after)
		}
	}
	for a, n := range counts {
		if n < 900 || n > 1100 {
			t.Errorf("%s reads %d of 3000", a, n)
		}
	}
	if !(Replicas{Others: addresses}).Owns("x") {
		t.Error("who is not among them does not read everything")
	}
}

func TestPeers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		names := map[string][]string{"control.weir": {"10.0.0.1", "10.0.0.2", "fd00::3"}}
		down := map[string]bool{}
		var got []Replicas
		change := func(f func()) {
			mu.Lock()
			f()
			mu.Unlock()
		}
		told := func() []Replicas {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			WatchPeers(ctx, PeersOptions{
				Addresses: []string{"control.weir:1", "10.0.0.1:1"}, Self: func(a string) bool { return a == "10.0.0.1:1" }, Log: r.log,
				Resolve: func(_ context.Context, host string) ([]string, error) {
					mu.Lock()
					defer mu.Unlock()
					if ips, ok := names[host]; ok {
						return ips, nil
					}
					if net.ParseIP(host) != nil {
						return []string{host}, nil
					}
					return nil, errors.New("no such host")
				},
				Dial: func(_ context.Context, address string) (net.Conn, error) {
					mu.Lock()
					defer mu.Unlock()
					if down[address] {
						return nil, errors.New("connection refused")
					}
					one, other := net.Pipe()
					other.Close()
					return one, nil
				},
			}, func(n Replicas) { change(func() { got = append(got, n) }) })
			close(done)
		}()
		defer func() { cancel(); <-done }()
		expect := func(after time.Duration, self string, others ...string) {
			t.Helper()
			before := len(told())
			time.Sleep(after - 1)
			settle()
			if got := told(); len(got) != before {
				t.Errorf("news came too early: %+v", got[before:])
			}
			time.Sleep(time.Nanosecond)
			settle()
			got := told()
			if n := got[len(got)-1]; len(got) != before+1 || n.Self != self || !slices.Equal(n.Others, others) {
				t.Errorf("the replicas are %+v", got[before:])
			}
		}
		settle()
		if n := told()[0]; n.Self != "10.0.0.1:1" || !slices.Equal(n.Others, []string{"10.0.0.2:1", "[fd00::3]:1"}) {
			t.Errorf("the replicas are %+v", n)
		}
		change(func() { down["10.0.0.2:1"] = true })
		expect(2*time.Second, "10.0.0.1:1", "[fd00::3]:1") // one refused connection says little
		change(func() { clear(down) })
		expect(time.Second, "10.0.0.1:1", "10.0.0.2:1", "[fd00::3]:1")
		change(func() {
			names["control.weir"] = []string{"10.0.0.1", "10.0.0.2", "10.0.0.9"}
			down["10.0.0.9:1"] = true
		})
		expect(time.Second, "10.0.0.1:1", "10.0.0.2:1") // the new one takes no connections yet
		change(func() { delete(names, "control.weir") })
		before := len(told())
		time.Sleep(time.Minute)
		settle()
		if got := told(); len(got) != before {
			t.Errorf("DNS is away, and the replicas are %+v", got[before:])
		}
		change(func() { clear(down) })
		time.Sleep(time.Second)
		settle()
		if n := told()[before]; !slices.Equal(n.Others, []string{"10.0.0.2:1", "10.0.0.9:1"}) {
			t.Errorf("the replicas are %+v", n)
		}
	})
}

// A process that is not among those that are to share reads everything.
func TestStrangeReplica(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		news := make(chan Replicas, 10)
		done := make(chan struct{})
		go func() {
			WatchPeers(ctx, PeersOptions{
				Addresses: []string{"10.0.0.1:1"}, Self: func(string) bool { return false }, Log: r.log,
				Resolve: func(_ context.Context, host string) ([]string, error) { return []string{host}, nil },
			}, func(n Replicas) { news <- n })
			close(done)
		}()
		time.Sleep(time.Minute)
		settle()
		cancel()
		<-done
		if n := <-news; n.Self != "" || len(n.Others) != 0 || len(news) != 0 {
			t.Errorf("the replicas are %+v, and %d times more", n, len(news))
		}
		if n := strings.Count(r.logs.String(), "it reads all"); n != 1 {
			t.Errorf("the log says so %d times", n)
		}
	})
}
