package usage

import (
	"errors"
	"io"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weir-dev/weir/extproc/wire"
)

// Sink takes records. It is called by several goroutines, and must not keep the pointer.
type Sink func(*Record)

// FailedSink takes failed attempts. It is called by several goroutines, and must not keep the pointer.
type FailedSink func(*Failed)

// Receiver is the access log service (ALS, gRPC) that Envoy reports to.
type Receiver struct {
	alsv3.UnimplementedAccessLogServiceServer
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

// Register adds the service to g.
func (r *Receiver) Register(g *grpc.Server) { alsv3.RegisterAccessLogServiceServer(g, r) }

// StreamAccessLogs receives one stream; Envoy keeps one open for each of its workers.
func (r *Receiver) StreamAccessLogs(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	attempts := false
	for {
		m, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
				return nil
			}
			return err
		}
		if id := m.GetIdentifier(); id != nil { // of the first message only
			attempts = id.GetLogName() == wire.AttemptLog
		}
		for _, entry := range m.GetHttpLogs().GetLogEntry() {
			if attempts {
				if f, ok := failed(entry); ok {
					for _, sink := range r.failed {
						sink(&f)
					}
				}
				continue
			}
			rec := record(entry, r.begins)
			for _, sink := range r.sinks {
				sink(&rec)
			}
		}
	}
}
