package envoy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// defaultListenerDrain is Envoy's own default of --drain-time-s.
const defaultListenerDrain = 10 * time.Minute

// Clock is the time as the supervisor needs it.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// SupervisorOptions configure a Supervisor.
type SupervisorOptions struct {
	// Binary is the Envoy to run. Required.
	Binary string
	// Bootstrap is its configuration, as Bootstrap returns it. Required. It is written into RuntimeDir with
	// mode 0600 and not passed as an argument, which every user of the machine could read.
	Bootstrap []byte
	// RuntimeDir is the directory for that file. Required.
	RuntimeDir string
	// AdminSocket is the admin socket that Bootstrap names. Required.
	AdminSocket string
	// Concurrency is the number of worker threads; 0 is the number of cores that this process may
	// use (runtime.GOMAXPROCS, which respects CPU affinity and cgroup limits).
	Concurrency int
	// LogLevel is the least severe level that Envoy logs at. Debug is its most detailed one here: it prints
	// the headers of each request, of which credentials are blanked before they reach Logger.
	LogLevel slog.Level
	// Logger gets Envoy's log. Lines of known noise come at debug level. nil discards.
	Logger *slog.Logger
	// OnEvent, if set, is called for each event, one at a time and in order. It must return soon and not
	// call the Supervisor.
	OnEvent func(Event)
	// Listen are the "host:port" addresses that Envoy will be told to listen on; Start fails with a clear
	// sentence if one is taken.
	Listen []string
	// ListenerDrain is how long the connections of a listener that a configuration update replaced may go
	// on. A stream that lasts longer is cut. 0 is 10 minutes; it is rounded up to seconds.
	ListenerDrain time.Duration
	// AcceptGrace is how long Stop lets the listeners accept after health checks fail, for load balancers
	// to notice. 0 closes the listeners at once, which is right where there is none.
	AcceptGrace time.Duration
	// FlushGrace is how long Stop waits between the end of the last request and SIGTERM, also where it cuts
	// others. Envoy does not flush gRPC access logs when it exits: give it the logger's
	// buffer_flush_interval, and a little.
	FlushGrace time.Duration
	// Clock is for the back-off and FlushGrace; nil is the system's.
	Clock Clock
}

// Supervisor keeps one Envoy running: it starts it, starts it again when it dies, and drains it at
// the end. Its methods may be called from several goroutines.
type Supervisor struct {
	opts  SupervisorOptions
	admin *Admin

	stopping chan struct{} // closed by the first Stop
	hurry    chan struct{} // closed by the second Stop
	done     chan struct{} // closed when the last process is gone and nothing is left running

	mu      sync.Mutex
	started bool
	child   *child // the running process, nil between two
	stops   int
	up      bool // the first process has answered: from here on deaths are mended
	failed  bool // the first process died before it answered

	eventMu sync.Mutex
}

// StartError says why Envoy did not come up.
type StartError struct {
	// Reason is one sentence.
	Reason string
	// Tail are the last lines of Envoy's log at warning level and above, when it ran at all.
	Tail []string
}

func (e *StartError) Error() string { return e.Reason }

// NewSupervisor checks the options. It starts nothing.
func NewSupervisor(opts SupervisorOptions) (*Supervisor, error) {
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"Binary", opts.Binary == ""}, {"Bootstrap", len(opts.Bootstrap) == 0},
		{"RuntimeDir", opts.RuntimeDir == ""}, {"AdminSocket", opts.AdminSocket == ""},
	} {
		if f.missing {
			return nil, fmt.Errorf("the Envoy supervisor needs the option %s", f.name)
		}
	}
	if opts.Concurrency < 0 || opts.ListenerDrain < 0 || opts.AcceptGrace < 0 || opts.FlushGrace < 0 {
		return nil, errors.New("the Envoy supervisor's concurrency and times must not be negative")
	}
	if opts.Concurrency == 0 {
		opts.Concurrency = runtime.GOMAXPROCS(0)
	}
	if opts.ListenerDrain == 0 {
		opts.ListenerDrain = defaultListenerDrain
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = systemClock{}
	}
	return &Supervisor{
		opts:     opts,
		admin:    NewAdmin(opts.AdminSocket),
		stopping: make(chan struct{}),
		hurry:    make(chan struct{}),
		done:     make(chan struct{}),
	}, nil
}

// Admin returns the client for the running Envoy's admin interface.
func (s *Supervisor) Admin() *Admin { return s.admin }

// Done is closed when supervision has ended and no process is left: after Stop, or after a Start that
// failed.
func (s *Supervisor) Done() <-chan struct{} { return s.done }

// PID returns the process id of the running Envoy, or 0 when there is none at this moment.
func (s *Supervisor) PID() int {
	if c := s.current(); c != nil {
		return c.process.Pid
	}
	return 0
}

// Start starts Envoy and returns when its admin interface answers, which does not mean that it has
// its configuration yet (WaitReady). When the first process dies before that, Start returns a
// *StartError and supervision is over: a taken port or a bad bootstrap does not heal by itself.
// Ending ctx during Start ends Envoy; afterwards ctx has no meaning. Start can be called once.
func (s *Supervisor) Start(ctx context.Context) error {
	s.mu.Lock()
	if s.started || s.stops > 0 {
		s.mu.Unlock()
		return errors.New("the Envoy supervisor can be started only once, and not after it was stopped")
	}
	first, err := s.launchFirst()
	if err != nil {
		s.stops++
		close(s.stopping)
		close(s.done)
		s.mu.Unlock()
		return err
	}
	s.started, s.child = true, first
	s.mu.Unlock()

	go s.supervise(first)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-first.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	err = pollUntil(ctx, func() bool {
		var notReady *NotReadyError
		err := s.admin.Ready(ctx)
		return err == nil || errors.As(err, &notReady)
	})
	s.mu.Lock()
	s.up = err == nil && !s.failed
	up := s.up
	s.mu.Unlock()
	if up {
		return nil
	}
	select {
	case <-first.done:
		<-s.done
		if s.failed {
			return startError(first)
		}
		return errors.New("Envoy was stopped while it started")
	default:
		// The caller gave up, before there was a request to drain.
		s.end()
		return fmt.Errorf("gave up waiting for Envoy to start: %w", err)
	}
}

func (s *Supervisor) launchFirst() (*child, error) {
	if err := CheckListen(s.opts.Listen...); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.configPath(), s.opts.Bootstrap, 0o600); err != nil {
		return nil, fmt.Errorf("cannot write Envoy's bootstrap: %w", err)
	}
	c, err := s.launch()
	if err != nil {
		return nil, &StartError{Reason: err.Error()}
	}
	return c, nil
}

func startError(c *child) *StartError {
	e := &StartError{Reason: c.exit.Reason, Tail: c.tail.snapshot()}
	if e.Reason == "" {
		e.Reason = c.exit.String() + " before it had started"
		if n := len(e.Tail); n > 0 {
			e.Reason += "; the last it said: " + clip(e.Tail[n-1], 300)
		}
	}
	return e
}

// WaitReady returns nil when Envoy serves, and an error when ctx or supervision ends before.
func (s *Supervisor) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.stopping:
			cancel(errors.New("it was stopped"))
		case <-ctx.Done():
		}
	}()
	var last error
	if pollUntil(ctx, func() bool { last = s.admin.Ready(ctx); return last == nil }) == nil {
		return nil
	}
	cause := context.Cause(ctx)
	var notReady *NotReadyError
	if errors.As(last, &notReady) {
		return fmt.Errorf("Envoy did not become ready (its state is %s): %w", notReady.State, cause)
	}
	return fmt.Errorf("Envoy did not become ready: %w", cause)
}

// supervise follows one process after the other. The first one is also the last when it dies before it
// answered once.
func (s *Supervisor) supervise(c *child) {
	defer close(s.done)
	var b backoff
	for c != nil {
		healthy := s.follow(c)
		s.mu.Lock()
		if s.stops == 0 && !s.up {
			s.failed = true
			s.markStopping()
		}
		s.mu.Unlock()
		c = s.relaunch(&b, healthy)
	}
}

// follow sees a process to its end and returns how long it had been ready.
func (s *Supervisor) follow(c *child) (healthy time.Duration) {
	s.emit(Started{PID: c.process.Pid})
	ctx, cancel := context.WithCancel(context.Background())
	var readySince time.Time
	var wg sync.WaitGroup
	wg.Go(func() {
		watchReady(ctx, s.admin, func() {
			readySince = s.opts.Clock.Now()
			s.emit(Ready{PID: c.process.Pid})
		})
	})
	<-c.done
	cancel()
	wg.Wait()

	s.mu.Lock()
	s.child = nil
	exit := c.exit
	exit.Expected = s.stops > 0
	s.mu.Unlock()
	s.emit(exit)
	if readySince.IsZero() {
		return 0
	}
	return s.opts.Clock.Now().Sub(readySince)
}

// relaunch waits as b says and starts the next process, as often as it takes. It returns nil when
// stopped meanwhile.
func (s *Supervisor) relaunch(b *backoff, healthy time.Duration) *child {
	for {
		select {
		case <-s.stopping:
			return nil
		default:
		}
		delay, attempt := b.next(healthy)
		healthy = 0
		s.emit(Restarting{In: delay, Attempt: attempt})
		select {
		case <-s.stopping:
			return nil
		case <-s.opts.Clock.After(delay):
		}
		s.mu.Lock()
		if s.stops > 0 {
			s.mu.Unlock()
			return nil
		}
		c, err := s.launch()
		s.child = c
		s.mu.Unlock()
		if err == nil {
			return c
		}
		s.opts.Logger.Error("Envoy cannot be started again", "error", err)
	}
}

func (s *Supervisor) launch() (*child, error) {
	return startChild(s.opts.Binary, s.args(), s.opts.Logger)
}

func (s *Supervisor) args() []string {
	drain := (s.opts.ListenerDrain + time.Second - 1) / time.Second
	return []string{
		"--config-path", s.configPath(),
		// Hot restart needs shared memory and a second Envoy; replacing the binary is not Weir's job.
		"--disable-hot-restart",
		"--concurrency", strconv.Itoa(s.opts.Concurrency),
		"--log-level", envoyLevel(s.opts.LogLevel),
		"--log-format", logFormat,
		"--drain-time-s", strconv.FormatInt(int64(drain), 10),
		// When a listener is replaced, its connections are asked to close after their next answer, and not at
		// random over the drain time: clients come to the new configuration sooner.
		"--drain-strategy", "immediate",
	}
}

func (s *Supervisor) configPath() string { return filepath.Join(s.opts.RuntimeDir, configName) }

func (s *Supervisor) emit(e Event) {
	if s.opts.OnEvent == nil {
		return
	}
	s.eventMu.Lock()
	defer s.eventMu.Unlock()
	s.opts.OnEvent(e)
}

func (s *Supervisor) current() *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.child
}

// markStopping forbids further starts and returns whether it was the first to do so. s.mu is held.
func (s *Supervisor) markStopping() bool {
	s.stops++
	if s.stops == 1 {
		close(s.stopping)
	}
	return s.stops == 1
}
