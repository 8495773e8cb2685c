package main

import (
	"io"
	"os"
	"os/exec"

	"github.com/weir-dev/weir/test/bench/proc"
)

// worker is this program in another role, which reads its standard input.
type worker struct {
	*proc.Process
	in  io.WriteCloser
	out io.Reader
}

// startWorker starts it. It ends when its input does.
func startWorker(self, role string) (*worker, error) {
	cmd := exec.Command(self, role)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not StdoutPipe, which Wait closes, read or not.
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = theirs
	p, err := proc.Start(role, cmd)
	theirs.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	return &worker{p, in, out}, nil
}

func (w *worker) stop() {
	_ = w.in.Close() // it may have ended
	w.Process.Stop()
}
