package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weir-dev/weir/console/api"
)

const (
	// topEvery is how often the gateway is asked.
	topEvery = time.Second
	// topLook is how often the size of the terminal is looked at; there is no signal for it on every system.
	topLook = 200 * time.Millisecond
	// topRequests that have run for longest are asked for.
	topRequests = 200
)

func topCommand() *cobra.Command {
	var admin adminClient
	var once bool
	var order string
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch a running gateway: routes, backends, endpoints and the slowest requests",
		Long: `Watch a running gateway: the rates of routes, backends and endpoints over the last ten seconds, why endpoints have their weights, and the
slowest requests that run. Everything is asked for once a second.

Keys: q quits; r, e, l, t, f and n sort by rate, errors, latency (time to the first token), tokens, requests in flight, and name.
Where the output is no terminal, or with --once, it is printed once.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			by, ok := topOrderNamed(order)
			if !ok {
				return fmt.Errorf("--sort %q: use %s", order, strings.Join(topOrderNames(), ", "))
			}
			if err := admin.open(); err != nil {
				return err
			}
			s := &topScreen{order: by, at: admin.at}
			if err := s.fetch(c.Context(), &admin); err != nil {
				return err
			}
			out, isFile := c.OutOrStdout().(*os.File)
			if once || !isFile || !term.IsTerminal(int(out.Fd())) || !term.IsTerminal(int(os.Stdin.Fd())) {
				_, err := io.WriteString(c.OutOrStdout(), strings.Join(s.plain(), "\n")+"\n")
				return err
			}
			return watchTop(c.Context(), s, &admin, os.Stdin, out)
		},
	}
	f := c.Flags()
	f.BoolVar(&once, "once", false, "print once and end")
	f.StringVar(&order, "sort", "rate", "what to sort by: "+strings.Join(topOrderNames(), ", "))
	admin.bind(f)
	return c
}

// fetch asks for what is shown.
func (s *topScreen) fetch(ctx context.Context, admin *adminClient) error {
	var topology api.Topology
	var requests api.Requests
	if err := admin.get(ctx, "/api/topology", &topology); err != nil {
		return err
	}
	if err := admin.get(ctx, fmt.Sprintf("/api/requests?running=oldest&limit=%d", topRequests), &requests); err != nil {
		return err
	}
	s.topology, s.running, s.trouble = topology, requests.Running, ""
	return nil
}

// What is told to a terminal (ECMA-48, and xterm's private modes): another screen, without a cursor and without wrapping lines.
const (
	topEnter = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
	topLeave = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// watchTop draws until somebody quits or ctx ends. The terminal is as it was before when it returns, however it does.
func watchTop(ctx context.Context, s *topScreen, admin *adminClient, in, out *os.File) error {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("the terminal cannot be taken over: %w; try --once", err)
	}
	defer term.Restore(int(in.Fd()), before)
	defer io.WriteString(out, topLeave)
	if _, err := io.WriteString(out, topEnter); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	keys := make(chan byte)
	go readKeys(ctx, in, keys)
	return s.loop(ctx, topEvents{
		keys: keys, fetched: fetchTop(ctx, admin),
		size: func() (int, int, error) { return term.GetSize(int(out.Fd())) },
		draw: func(text string) error { _, err := io.WriteString(out, text); return err },
	})
}

// topEvents are where a loop's input comes from, and where its output goes.
type topEvents struct {
	keys    <-chan byte
	fetched <-chan func(*topScreen)
	size    func() (width, height int, err error)
	draw    func(string) error
}

// loop draws whenever something is new.
func (s *topScreen) loop(ctx context.Context, e topEvents) error {
	look := time.NewTicker(topLook)
	defer look.Stop()
	width, height, err := e.size()
	for drawn := false; ; {
		if err != nil {
			return fmt.Errorf("the size of the terminal is not known: %w; try --once", err)
		}
		if !drawn {
			if err := e.draw(s.frame(width, height)); err != nil {
				return err
			}
			drawn = true
		}
		select {
		case <-ctx.Done():
			return nil
		case k, ok := <-e.keys:
			if !ok || k == 'q' || k == 'Q' || k == ctrlC || k == ctrlD {
				return nil
			}
			drawn = !s.press(k)
		case f := <-e.fetched:
			f(s)
			drawn = false
		case <-look.C:
			w, h, bad := e.size()
			if w != width || h != height || bad != nil {
				width, height, err, drawn = w, h, bad, false
			}
		}
	}
}

const (
	ctrlC = 3
	ctrlD = 4
)

// readKeys passes on what is typed. It ends with the input: a read from a terminal cannot be ended otherwise.
func readKeys(ctx context.Context, in io.Reader, keys chan<- byte) {
	defer close(keys)
	var buf [64]byte
	for {
		n, err := in.Read(buf[:])
		for _, k := range buf[:n] {
			if k == 0x1b { // of arrows and the like, which come in one piece
				break
			}
			select {
			case keys <- k:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// fetchTop asks every second, and gives what each answer changes.
func fetchTop(ctx context.Context, admin *adminClient) <-chan func(*topScreen) {
	out := make(chan func(*topScreen))
	go func() {
		tick := time.NewTicker(topEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			var next topScreen
			change := func(s *topScreen) { s.topology, s.running, s.trouble = next.topology, next.running, "" }
			if err := next.fetch(ctx, admin); err != nil {
				change = func(s *topScreen) { s.trouble = err.Error() }
			}
			select {
			case out <- change:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
