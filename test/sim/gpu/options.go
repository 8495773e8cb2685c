package gpu

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// AnyPort as Options.DCGMPort: a free one for each server.
const AnyPort = -1

// Options are those of Start.
type Options struct {
	// Addresses are where the servers listen: host:port of loopback, one for each. Port 0 is any free one.
	Addresses []string
	// Profile of all servers. The zero value is the first of engine.Profiles. Times are as on that hardware: to test faster,
	// take a faster one, with its method Scaled.
	Profile engine.Profile
	// Models that the servers know. Empty: they take every name, and list the profile's.
	Models []string
	// DCGMPort is where each server's host has an exporter of its own, at /metrics; servers then need hosts of their own
	// (127.0.0.1, 127.0.0.2, ...). 0: none. The exporter's page is always at /dcgm/metrics of the server, too.
	DCGMPort int
	// DCGMInterval is how often the exporter looks at its GPUs; in between it repeats itself. 0: a second. The real one's default is 30.
	DCGMInterval time.Duration
	// OutputTokens is the median length of answers that no limit cuts; they vary from a quarter to four times of it. 0: 200.
	OutputTokens int
	// Seed varies texts, lengths and errors.
	Seed uint64
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Addresses) == 0 {
		return o, errors.New("gpu: there is no server without an address: give one for each, like 127.0.0.1:0")
	}
	if o.Profile == (engine.Profile{}) {
		o.Profile = engine.Profiles()[0]
	}
	if o.DCGMInterval == 0 {
		o.DCGMInterval = time.Second
	}
	if o.DCGMInterval < 0 {
		return o, fmt.Errorf("gpu: the DCGM interval is %v: it must be more than none", o.DCGMInterval)
	}
	if o.DCGMPort < AnyPort || o.DCGMPort > math.MaxUint16 {
		return o, fmt.Errorf("gpu: %d is no port for DCGM metrics", o.DCGMPort)
	}
	if o.OutputTokens == 0 {
		o.OutputTokens = 200
	}
	if o.OutputTokens < 1 {
		return o, fmt.Errorf("gpu: answers of %d tokens: they must have 1 at least", o.OutputTokens)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, nil
}

// exporter is where the DCGM metrics of a server that is bound to an address are served. Empty: nowhere but there.
func (o Options) exporter(bound string) string {
	host, _, _ := net.SplitHostPort(bound)
	switch o.DCGMPort {
	case 0:
		return ""
	case AnyPort:
		return net.JoinHostPort(host, "0")
	}
	return net.JoinHostPort(host, strconv.Itoa(o.DCGMPort))
}
