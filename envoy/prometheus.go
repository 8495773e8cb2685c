package envoy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
)

// Prometheus returns the statistics that Envoy has used so far, in Prometheus's text format; the caller closes it. They come as they
// are read, until ctx ends: it should have a deadline.
func (a *Admin) Prometheus(ctx context.Context) (io.ReadCloser, error) {
	const path = "/stats/prometheus"
	u := url.URL{Scheme: "http", Host: "envoy-admin", Path: path, RawQuery: "usedonly"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err // the address is a constant
	}
	resp, err := a.client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the address that it repeats is made up
		}
		return nil, &UnreachableError{Socket: a.socket, Err: err}
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // as much as there is
		return nil, &AdminError{Path: path, Status: resp.StatusCode, Body: firstLine(string(body))}
	}
	return resp.Body, nil
}
