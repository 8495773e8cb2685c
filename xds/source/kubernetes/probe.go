package kubernetes

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// probeEvery and probeTimeout are how often the API server is asked for a sign of life, and how long it may take. A watch on which nothing happens
	// looks the same whether the server has nothing to say or hangs, and the kernel of a machine answers for a process that does not.
	probeEvery, probeTimeout = 5 * time.Second, 6 * time.Second
	// probed is what health knows the answers by.
	probed = "API server"
)

// probe asks for signs of life until ctx ends. Any answer is one, also one that refuses: the version is told to everybody, in most clusters.
func (s *Source) probe(ctx context.Context) {
	tick := s.opts.Clock.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C():
		case <-ctx.Done():
			return
		}
		switch err := s.askVersion(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.health.failed(probed, err)
		default:
			s.health.works(probed)
		}
	}
}

func (s *Source) askVersion(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, fmt.Errorf("it has not answered for %v", probeTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.version, nil)
	if err != nil {
		return err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	return nil
}
