package fleet

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weir-dev/weir/xds/load/signal"
)

// Signals travel in the wire format of protocol buffers, in messages that only this file knows. What a reader does not know it skips. A
// message from the control plane is
//
//	1 time at which it was made, ns by the clock of the process, from some beginning
//	2 1 where nothing holds that was sent before on this stream
//	3 source, again and again: 1 number, 2 Backend, 3 endpoint, 4 index of its metrics + 1 (0: health), 5 fingerprint (fixed64)
//	4 reading, again and again: 1 number of its source, 2 time as in 1, 3 number of the reading (fixed64), 4 fault, 5 words for it,
//	  6 run of health checks, 7 which metrics it has, 8 their values (packed doubles, in the order of the bits)
//	5 replicas that share the work: 1 this one, 2 another, again and again
//
// A message from a gateway is the IDs of the Backends that it wants signals of: 1, again and again.
const (
	frameAt       protowire.Number = 1
	frameReset    protowire.Number = 2
	frameSource   protowire.Number = 3
	frameReading  protowire.Number = 4
	frameReplicas protowire.Number = 5
)

// signalSource is what a number stands for on one stream.
type signalSource struct {
	number            uint64
	backend, endpoint string
	index             int
	of                uint64
}

// signalReading is a reading on its way.
type signalReading struct {
	source uint64        // number
	at     time.Duration // by the clock of the control plane
	signal.Shared
}

// signalFrame is a message from the control plane.
type signalFrame struct {
	at       time.Duration
	reset    bool
	sources  []signalSource
	readings []signalReading
	replicas *Replicas
}

// Replicas are the processes that share the work, by their addresses.
type Replicas struct {
	Self   string
	Others []string
}

func appendText(b []byte, n protowire.Number, text string) []byte {
	if text == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), text)
}

func appendNumber(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func appendFixed(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), v)
}

func appendMessage(b []byte, n protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), m)
}

// encode appends the message to b.
func (f *signalFrame) encode(b []byte) []byte {
	var m []byte // of the part at hand
	b = appendNumber(b, frameAt, uint64(f.at))
	if f.reset {
		b = appendNumber(b, frameReset, 1)
	}
	for i := range f.sources {
		s := &f.sources[i]
		m = appendNumber(m[:0], 1, s.number)
		m = appendText(m, 2, s.backend)
		m = appendText(m, 3, s.endpoint)
		m = appendNumber(m, 4, uint64(s.index+1))
		b = appendMessage(b, frameSource, appendFixed(m, 5, s.of))
	}
	for i := range f.readings {
		r := &f.readings[i]
		m = appendNumber(m[:0], 1, r.source)
		m = appendNumber(m, 2, uint64(r.at))
		m = appendFixed(m, 3, r.Reading)
		m = appendText(m, 4, r.Fault)
		m = appendText(m, 5, r.Err)
		m = appendNumber(m, 6, uint64(r.Run))
		m = appendSample(m, &r.Sample)
		b = appendMessage(b, frameReading, m)
	}
	if f.replicas != nil {
		m = appendText(m[:0], 1, f.replicas.Self)
		for _, other := range f.replicas.Others {
			m = appendText(m, 2, other)
		}
		b = appendMessage(b, frameReplicas, m)
	}
	return b
}

// sampleFields are the values of a sample in the order of signal's Metrics.
func sampleFields(s *signal.Sample) [8]*float64 {
	return [...]*float64{&s.Waiting, &s.Running, &s.KVCache, nil, &s.GPUUtilization, &s.GPUMemory, &s.Headroom, &s.KVTokens}
}

func appendSample(b []byte, s *signal.Sample) []byte {
	fields := sampleFields(s)
	has := s.Has & (1<<len(fields) - 1)
	if has == 0 {
		return b
	}
	b = appendNumber(b, 7, uint64(has))
	var values []byte
	for m, field := range fields {
		switch {
		case !has.Has(signal.Metric(m)):
		case field == nil:
			values = protowire.AppendFixed64(values, math.Float64bits(s.QueueDelay.Seconds()))
		default:
			values = protowire.AppendFixed64(values, math.Float64bits(*field))
		}
	}
	return appendMessage(b, 8, values)
}

// errSignal is of a message that cannot be read.
var errSignal = errors.New("the control plane sent signals that cannot be read")

// fields calls f for each field of a message: number for what is one, and text for the rest.
func fields(b []byte, f func(n protowire.Number, number uint64, text []byte) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return errSignal
		}
		b = b[size:]
		var number uint64
		var text []byte
		switch kind {
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			number, size = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			text, size = protowire.ConsumeBytes(b)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return errSignal
		}
		b = b[size:]
		if err := f(n, number, text); err != nil {
			return err
		}
	}
	return nil
}

// decodeFrame reads a message of the control plane.
func decodeFrame(b []byte) (*signalFrame, error) {
	f := &signalFrame{}
	err := fields(b, func(n protowire.Number, number uint64, text []byte) (err error) {
		switch n {
		case frameAt:
			f.at, err = duration(number)
		case frameReset:
			f.reset = number != 0
		case frameSource:
			var s signalSource
			if s, err = decodeSource(text); err == nil {
				f.sources = append(f.sources, s)
			}
		case frameReading:
			var r signalReading
			if r, err = decodeReading(text); err == nil {
				f.readings = append(f.readings, r)
			}
		case frameReplicas:
			f.replicas = &Replicas{}
			err = fields(text, func(n protowire.Number, _ uint64, text []byte) error {
				switch n {
				case 1:
					f.replicas.Self = string(text)
				case 2:
					f.replicas.Others = append(f.replicas.Others, string(text))
				}
				return nil
			})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func decodeSource(b []byte) (s signalSource, err error) {
	s.index = signal.Health
	err = fields(b, func(n protowire.Number, number uint64, text []byte) error {
		switch n {
		case 1:
			s.number = number
		case 2:
			s.backend = string(text)
		case 3:
			s.endpoint = string(text)
		case 4:
			if number > math.MaxInt32 {
				return errSignal
			}
			s.index = int(number) - 1
		case 5:
			s.of = number
		}
		return nil
	})
	return s, err
}

func decodeReading(b []byte) (r signalReading, err error) {
	var values []byte
	err = fields(b, func(n protowire.Number, number uint64, text []byte) (err error) {
		switch n {
		case 1:
			r.source = number
		case 2:
			r.at, err = duration(number)
		case 3:
			r.Reading = number
		case 4:
			r.Fault = clean(string(text))
		case 5:
			r.Err = clean(string(text))
		case 6:
			r.Run = int(min(number, math.MaxInt32))
		case 7:
			r.Sample.Has = signal.Set(number & math.MaxUint16)
		case 8:
			values = text
		}
		return err
	})
	if err != nil {
		return r, err
	}
	return r, takeValues(&r.Sample, values)
}

// takeValues reads the values of the metrics that a sample has. Those of metrics that this version does not know come last and are left.
func takeValues(s *signal.Sample, b []byte) error {
	fields := sampleFields(s)
	s.Has &= 1<<len(fields) - 1
	for m, field := range fields {
		if !s.Has.Has(signal.Metric(m)) {
			continue
		}
		bits, size := protowire.ConsumeFixed64(b)
		if size < 0 {
			return fmt.Errorf("%w: a value is missing", errSignal)
		}
		b = b[size:]
		v := math.Float64frombits(bits)
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			return fmt.Errorf("%w: a value is no number", errSignal)
		case field != nil:
			*field = v
		case v < 0 || v > math.MaxInt32:
			return fmt.Errorf("%w: a delay is none", errSignal)
		default:
			s.QueueDelay = time.Duration(v * float64(time.Second))
		}
	}
	return nil
}

func duration(n uint64) (time.Duration, error) {
	if n > math.MaxInt64 {
		return 0, errSignal
	}
	return time.Duration(n), nil
}

// encodeWanted is the message of a gateway.
func encodeWanted(backends []string) (b []byte) {
	for _, id := range backends {
		b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), id)
	}
	return b
}

// decodeWanted reads it.
func decodeWanted(b []byte) (backends []string, err error) {
	err = fields(b, func(n protowire.Number, _ uint64, text []byte) error {
		if n == 1 {
			backends = append(backends, string(text))
		}
		return nil
	})
	return backends, err
}
