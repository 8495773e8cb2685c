package usage

import (
	"errors"
	"io"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Sink takes records. It is called by several goroutines, and must not keep the pointer: the next record is read to the same place. It may
// keep a copy, and what that points to.
type Sink func(*Record)

// FailedSink takes failed attempts. It is called by several goroutines, and must not keep the pointer.
type FailedSink func(*Failed)

// Receiver is the access log service (ALS, gRPC) that Envoy reports to.
type Receiver struct {
	sinks  []Sink
	failed []FailedSink
	begins func(traceID string) bool
}

// NewReceiver makes a Receiver that hands every record to each sink, in this order.
func NewReceiver(sinks ...Sink) *Receiver { return &Receiver{sinks: sinks} }

// Failed has failed attempts handed to each sink, too. Call it before Register.
func (r *Receiver) Failed(sinks ...FailedSink) { r.failed = append(r.failed, sinks...) }

// Begins has sampled decide for the traces that begin with a record: those of requests that Envoy answered before it asked Weir, and that
// came without a trace. Without it, none of them is sampled. Call it before Register.
func (r *Receiver) Begins(sampled func(traceID string) bool) { r.begins = sampled }

// Register adds the service to g, which must have been made with grpc.ForceServerCodecV2(Codec()).
func (r *Receiver) Register(g *grpc.Server) {
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: alsv3.AccessLogService_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: alsv3.AccessLogService_ServiceDesc.Streams[0].StreamName, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error { return r.receive(stream) },
		}},
		Metadata: alsv3.AccessLogService_ServiceDesc.Metadata,
	}, r)
}

// receive receives one stream; Envoy keeps one open for each of its workers.
func (r *Receiver) receive(stream grpc.ServerStream) error {
	d := newDecoder(r.begins)
	var m message
	for {
		if err := stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
				return nil
			}
			return err
		}
		if !m.read() || !m.entries(func(entry []byte) bool { return r.record(d, entry) }) {
			return status.Error(codes.Internal, "an access log of Envoy cannot be read: it is no message of envoy.service.accesslog.v3")
		}
	}
}

// record hands the record of a request, or of an attempt, on. It is false for what is none.
func (r *Receiver) record(d *decoder, entry []byte) bool {
	if !d.entry.read(entry) {
		return false
	}
	if d.entry.kind == attemptEnded {
		if f, known := d.failed(); known {
			for _, sink := range r.failed {
				sink(&f)
			}
		}
		return true
	}
	rec := d.made()
	for _, sink := range r.sinks {
		sink(rec)
	}
	return true
}

// message is an envoy.service.accesslog.v3.StreamAccessLogsMessage.
type message struct {
	encoded []byte
	logs    []byte // the part of it in which the entries are
}

// largeMessage is the largest buffer that is kept for the next message, in bytes. Envoy sends its records some 64 KiB at a time at most.
const largeMessage = 256 << 10

// UnmarshalWire implements wire.Unmarshaler: it copies the message, which is read later.
func (m *message) UnmarshalWire(data mem.BufferSlice) error {
	if n := data.Len(); n > cap(m.encoded) || cap(m.encoded) > largeMessage {
		m.encoded = make([]byte, n)
	} else {
		m.encoded = m.encoded[:n]
	}
	data.CopyTo(m.encoded)
	return nil
}

// read finds the entries.
func (m *message) read() bool {
	m.logs = m.encoded
	f := read(m.encoded)
	for f.next() {
		if f.tag == 3<<3|sized { // of TCP; of the two kinds, the last one counts
			m.logs = f.rest
		}
	}
	return !f.broken
}

// entries calls do for every entry, until it returns false or the message turns out to be broken: then entries does.
func (m *message) entries(do func([]byte) bool) bool {
	f := read(m.logs)
	for f.next() {
		if f.tag != 2<<3|sized {
			continue
		}
		logs := read(f.bytes)
		for logs.next() {
			if logs.tag == 1<<3|sized && !do(logs.bytes) {
				return false
			}
		}
		if logs.broken {
			return false
		}
	}
	return !f.broken
}
