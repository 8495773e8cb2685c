package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// runSink is the process of a collector of traces, metrics and logs (OTLP over HTTP) that throws everything away. It says its address on
// out, and ends when in does.
func runSink(in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("the collector cannot listen: %w", err)
	}
	fmt.Fprintln(out, l.Addr())
	s := &http.Server{Handler: http.HandlerFunc(discard), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	_, _ = io.Copy(io.Discard, in)
	s.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// discard takes an export: an empty answer in protobuf is a full success.
func discard(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}
