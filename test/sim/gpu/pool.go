package gpu

import (
	"context"
	"sync"
)

// Pool is a number of servers in this process.
type Pool struct {
	Servers []*Server // in the order of Options.Addresses

	opts Options
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Start starts the servers. They serve until Close.
func Start(o Options) (*Pool, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Pool{opts: o, stop: stop}
	for i, addr := range o.Addresses {
		s, err := newServer(p, i)
		if err == nil {
			p.Servers = append(p.Servers, s)
			if err = s.bind(addr); err == nil {
				err = s.Revive()
			}
		}
		if err != nil {
			p.Close()
			return nil, err
		}
	}
	for _, s := range p.Servers {
		p.wg.Go(func() { s.driver.run(ctx) })
	}
	return p, nil
}

// Close ends all servers, and breaks what they were doing. It may be called again.
func (p *Pool) Close() {
	p.stop()
	for _, s := range p.Servers {
		s.close()
	}
	p.wg.Wait()
}
