package console

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Certificate is the admin server's own, from two files. They are read again when they have changed, so that it can be renewed while
// the gateway runs. It is safe for concurrent use.
type Certificate struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	of     [2]time.Time // when the files had changed that were read
	told   string       // why they are no good, as the log has it: each handshake finds it again
}

// NewCertificate reads a certificate chain and its private key, PEM both.
func NewCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{cert: certFile, key: keyFile, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// load reads the files if they have changed.
func (c *Certificate) load() error {
	var of [2]time.Time
	for i, path := range []string{c.cert, c.key} {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("the admin server's certificate: %w", err)
		}
		of[i] = info.ModTime()
	}
	if c.loaded != nil && of == c.of {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("the admin server's certificate in %s and %s: %w", c.cert, c.key, err)
	}
	c.loaded, c.of = &pair, of
	return nil
}

// Get is a tls.Config.GetCertificate. While the files are no good, what was read before serves on.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch err := c.load(); {
	case err == nil:
		c.told = ""
	case err.Error() != c.told:
		c.told = err.Error()
		c.log.Error("the admin server's certificate cannot be renewed; the one before serves on", "error", err)
	}
	return c.loaded, nil
}
