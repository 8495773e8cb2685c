package fleet

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weir-dev/weir/xds/load/signal"
)

// everySignal is a frame with one of everything.
func everySignal() *signalFrame {
	all := signal.Sample{Waiting: 3, Running: 4, KVCache: 0.5, QueueDelay: 250 * time.Millisecond, GPUUtilization: 0.75, GPUMemory: 1, Headroom: 0.25, KVTokens: 1e9, Has: 0xff}
	return &signalFrame{
		at: time.Hour, reset: true,
		sources: []signalSource{{1, "a/x", "10.0.0.1:80", 0, 7}, {2, "a/x", "10.0.0.1:80", signal.Health, 1 << 63}},
		readings: []signalReading{
			{source: 1, at: time.Minute, Shared: signal.Shared{Reading: math.MaxUint64, Sample: all}},
			{source: 1, at: time.Minute, Shared: signal.Shared{Reading: 1, Sample: signal.Sample{KVCache: 0.5, Has: signal.Set(0).With(signal.KVCache)}}},
			{source: 2, at: 1, Shared: signal.Shared{Fault: "timeout", Err: "no answer", Run: 7}},
		},
		replicas: &Replicas{Self: "10.0.0.2:1", Others: []string{"10.0.0.3:1", "10.0.0.4:1"}},
	}
}

func TestSignalFrames(t *testing.T) {
	for _, want := range []*signalFrame{everySignal(), {}, {at: 1, replicas: &Replicas{}}} {
		got, err := decodeFrame(want.encode(nil))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: got %+v\nwant %+v", err, got, want)
		}
	}
	// What a newer control plane says besides is left: fields, and metrics, whose values come last.
	more := protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), "news")
	more = protowire.AppendFixed32(protowire.AppendTag(more, 98, protowire.Fixed32Type), 1)
	reading := appendNumber(nil, 1, 1)
	reading = appendNumber(reading, 7, 1|1<<12)
	reading = appendMessage(reading, 8, protowire.AppendFixed64(protowire.AppendFixed64(nil, math.Float64bits(5)), math.Float64bits(6)))
	got, err := decodeFrame(appendMessage(more, frameReading, reading))
	if err != nil || len(got.readings) != 1 || got.readings[0].Sample != (signal.Sample{Has: 1, Waiting: 5}) {
		t.Errorf("%v: got %+v", err, got)
	}
}

func TestBrokenSignalFrames(t *testing.T) {
	value := func(has uint64, values ...float64) []byte {
		var b []byte
		for _, v := range values {
			b = protowire.AppendFixed64(b, math.Float64bits(v))
		}
		return appendMessage(nil, frameReading, appendMessage(appendNumber(nil, 7, has), 8, b))
	}
	whole := everySignal().encode(nil)
	for name, b := range map[string][]byte{
		"cut off":           whole[:len(whole)-1],
		"no tag":            {0xff},
		"an endless number": bytes.Repeat([]byte{0xff}, 20),
		"a time before all": appendNumber(nil, frameAt, 1<<63),
		"a huge index":      appendMessage(nil, frameSource, appendNumber(nil, 4, 1<<40)),
		"a missing value":   value(3, 1),
		"no value":          value(1),
		"no number":         value(1, math.NaN()),
		"too much":          value(1, math.Inf(1)),
		"a negative delay":  value(1<<signal.QueueDelay, -1),
		"an endless delay":  value(1<<signal.QueueDelay, 1e30),
	} {
		if f, err := decodeFrame(b); err == nil {
			t.Errorf("%s: got %+v", name, f)
		}
	}
}

// FuzzSignalFrame: whatever comes is refused, or becomes what can be sent again.
func FuzzSignalFrame(f *testing.F) {
	f.Add(everySignal().encode(nil))
	f.Add((&signalFrame{at: 1, reset: true}).encode(nil))
	f.Add([]byte{0x22, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := decodeFrame(b)
		if err != nil {
			return
		}
		for i := range frame.readings {
			for _, v := range sampleFields(&frame.readings[i].Sample) {
				if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0)) {
					t.Errorf("a value is %v", *v)
				}
			}
		}
		again, err := decodeFrame(frame.encode(nil))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if len(again.readings) != len(frame.readings) || len(again.sources) != len(frame.sources) {
			t.Errorf("got %+v\nwant %+v", again, frame)
		}
		k := signalSources{epoch: time.Unix(0, 0), now: func() time.Time { return time.Unix(100, 0) }}
		for _, s := range k.take(frame) {
			if s.At.After(time.Unix(100, 0)) {
				t.Errorf("a reading is of %v", s.At)
			}
		}
	})
}

func FuzzWantedSignals(f *testing.F) {
	f.Add(encodeWanted([]string{"a/x", "b/y", ""}))
	f.Add([]byte{0x0a})
	f.Fuzz(func(t *testing.T, b []byte) {
		wanted, err := decodeWanted(b)
		if err != nil {
			return
		}
		if again, err := decodeWanted(encodeWanted(wanted)); err != nil || !slices.Equal(again, wanted) {
			t.Errorf("%v: got %q, want %q", err, again, wanted)
		}
	})
}

// Times are those of the control plane, brought to the clock here: the message that travelled quickest says how far the clocks are apart, and
// one that waited somewhere does not make its readings younger.
func TestTimesOfSignals(t *testing.T) {
	start := time.Unix(1000, 0)
	now := start
	k := signalSources{epoch: start, now: func() time.Time { return now }}
	source := []signalSource{{number: 1, backend: "a/x", endpoint: "e"}}
	at := func(here, sent, read time.Duration) time.Duration {
		t.Helper()
		now = start.Add(here)
		got := k.take(&signalFrame{at: sent, sources: source, readings: []signalReading{{source: 1, at: read}, {source: 2, at: read}}})
		if len(got) != 1 || !got[0].At.Equal(got[0].Sample.At) {
			t.Fatalf("got %+v", got)
		}
		return now.Sub(got[0].At)
	}
	const s, ms = time.Second, time.Millisecond
	for _, tc := range []struct{ here, sent, read, age time.Duration }{
		{0, 500 * s, 499 * s, s},                      // their clock began 500 s earlier
		{s, 501 * s, 501 * s, 0},                      //
		{2*s - ms, 501*s + 990*ms, 501 * s, 999 * ms}, // took 9 ms
		{3 * s, 503*s + 10*ms, 503 * s, 10 * ms},      // this one was quicker than those before
		{9 * s, 504 * s, 504 * s, 5*s + 10*ms},        // waited five seconds somewhere
		{9 * s, 509 * s, 509*s + 20*ms, 0},            // of the future, as it seems
	} {
		if age := at(tc.here, tc.sent, tc.read); age != tc.age {
			t.Errorf("%+v: the age is %v", tc, age)
		}
	}
	// The clocks drift: here it goes faster by 100 ms in a minute. After two windows what was is forgotten.
	if age := at(40*s, 540*s-70*ms, 540*s-70*ms); age > 100*ms {
		t.Errorf("the age is %v", age)
	}
	at(71*s, 571*s-100*ms, 571*s-100*ms)
	if age := at(102*s, 602*s-100*ms, 602*s-100*ms); age != 0 {
		t.Errorf("the age is %v", age)
	}
}
