package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// listen starts a server on a port of its own.
func listen(t *testing.T, serve func(net.Listener)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serve(l)
	return l.Addr().String()
}

// TestLoadAndUpstream runs jobs through the load generator as the benchmark does, straight to the upstream.
func TestLoadAndUpstream(t *testing.T) {
	address := listen(t, serveUpstream)
	in, tell := io.Pipe()
	hear, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- runLoad(in, out) }()
	replies := json.NewDecoder(hear)
	say := func(v any) (r reply) {
		t.Helper()
		if err := json.NewEncoder(tell).Encode(v); err != nil {
			t.Fatal(err)
		}
		if err := replies.Decode(&r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	paced := pace{3, 5 * time.Millisecond}
	for _, c := range []struct {
		name    string
		traffic traffic
		rate    float64
		hold    bool
	}{
		{name: "closed loop", traffic: traffic{Bytes: small}},
		{name: "large", traffic: traffic{Bytes: large}},
		{name: "streams", traffic: traffic{Bytes: small, Stream: true, Pace: quick}},
		{name: "paced streams", traffic: traffic{Bytes: small, Stream: true, Pace: paced}},
		{name: "held streams", traffic: traffic{Bytes: small, Stream: true, Pace: paced}, hold: true},
		{name: "open loop", traffic: traffic{Bytes: small}, rate: 2000},
	} {
		t.Run(c.name, func(t *testing.T) {
			const measure = 50 * time.Millisecond
			c.traffic.Model = modelPlain
			j := job{Address: address, Path: "/v1/chat/completions", Key: "k", Traffic: c.traffic, Connections: 3, Rate: c.rate, Measure: measure, Hold: c.hold}
			if r := say(j); !r.Warm {
				t.Fatalf("it is not warm: %+v", r)
			}
			r := say("go")
			if r.Error != "" {
				t.Fatal(r.Error)
			}
			m := r.Result
			if m.Requests < 3 || m.Elapsed <= 0 || m.Latency.P50 <= 0 || m.Latency.P99 < m.Latency.P50 || m.FirstByte.P50 > m.Latency.P50 {
				t.Errorf("measured %+v", m)
			}
			if want := int(c.rate * measure.Seconds()); c.rate > 0 && m.Requests != want {
				t.Errorf("%d requests at a rate of %g, want %d", m.Requests, c.rate, want)
			}
			if c.hold && m.Requests != j.Connections {
				t.Errorf("%d streams were held, want %d", m.Requests, j.Connections)
			}
			// An event takes some time, and less than the machine has been up; the next comes after its pause, more or less.
			if paced := c.traffic.Pace.Every > 0; paced != (m.Chunk.P50 > 0) || paced != (m.LongestGap > 0) || m.Chunk.Max > float64(answerPatience/time.Microsecond) {
				t.Errorf("events took %+v, and the longest gap is %g ms", m.Chunk, m.LongestGap)
			}
		})
	}
	tell.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestBadAnswersFail: a refusal and an answer that is cut short are no figures.
func TestBadAnswersFail(t *testing.T) {
	for name, answer := range map[string]string{
		"refused":  "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}",
		"short":    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
		"cut":      "HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{}",
		"closing":  strings.Replace(string(openaiAnswers.plain), "content-type", "connection: close\r\ncontent-type", 1),
		"no words": "",
		"other":    strings.ReplaceAll(string(openaiAnswers.plain), "words", "woods"),
	} {
		t.Run(name, func(t *testing.T) {
			address := listen(t, func(l net.Listener) {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.ReadFull(c, make([]byte, small)) // the caller checks
					_, _ = io.WriteString(c, answer)
					c.Close()
				}
			})
			for _, rate := range []float64{0, 100} {
				j := job{Address: address, Path: "/", Traffic: traffic{Model: modelPlain, Bytes: small}, Connections: 2, Rate: rate, Measure: time.Minute}
				j.Warm = j.Measure
				if m, err := j.do(func() error { return nil }); err == nil {
					t.Errorf("at rate %g: measured %+v", rate, m)
				}
			}
		})
	}
}

// TestOpenLoopCountsTheWait: a server that stands still delays everything that was due meanwhile.
func TestOpenLoopCountsTheWait(t *testing.T) {
	const pause = 200 * time.Millisecond
	address := listen(t, func(l net.Listener) {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		_, _ = r.Peek(1)  // nothing is due before the first request
		time.Sleep(pause) // what is measured
		_ = answerAll(r, c)
	})
	j := job{Address: address, Path: "/", Traffic: traffic{Model: modelPlain, Bytes: small}, Connections: 1, Rate: 1000, Measure: 100 * time.Millisecond}
	m, err := j.do(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	// Requests were due over 100 ms, and none was answered before the 200.
	if least := float64((pause - j.Measure) / time.Microsecond); m.Requests != 100 || m.Latency.P50 < least {
		t.Errorf("%d requests with a median of %g us, want 100 and at least %g", m.Requests, m.Latency.P50, least)
	}
}

// TestHeldStreamsThatFail end the job, which has begun all the same.
func TestHeldStreamsThatFail(t *testing.T) {
	address := listen(t, func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	j := job{Address: address, Path: "/", Traffic: traffic{Model: modelPlain, Bytes: small, Stream: true, Pace: pace{2, time.Millisecond}}, Connections: 2, Hold: true}
	if m, err := j.do(func() error { return nil }); err == nil {
		t.Errorf("measured %+v", m)
	}
}
