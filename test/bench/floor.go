package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
)

// runFloor is the process of an external processor that does nothing. It listens on a unix socket, whose path it says on out, and ends
// when in does.
func runFloor(in io.Reader, out io.Writer) error {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "processor.sock"))
	if err != nil {
		return fmt.Errorf("the processor cannot listen: %w", err)
	}
	g := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(g, idle{})
	fmt.Fprintln(out, l.Addr())
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	_, _ = io.Copy(io.Discard, in)
	g.Stop()
	return <-done
}

// idle is an external processor that changes nothing.
type idle struct {
	extprocv3.UnimplementedExternalProcessorServer
}

// Its answers are the same every time, and nobody changes them.
var (
	idleHeaders = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}}
	idleBody    = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{}}}
)

func (idle) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil // Envoy closes or resets a stream that it needs no more
		}
		var answer *extprocv3.ProcessingResponse
		switch m.GetRequest().(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
			answer = idleHeaders
		case *extprocv3.ProcessingRequest_RequestBody:
			answer = idleBody
		default:
			return errors.New("only requests are sent here")
		}
		if err := stream.Send(answer); err != nil {
			return nil
		}
	}
}
