// Package redisconn connects to Redis: one server, servers watched by Sentinel, or a cluster. Everything that is shared
// between replicas goes through a Conn: limits, the shipped ledger, the key store.
//
// A Conn does not repeat commands on its own, and it bounds how long each may take: what a request waits for a slow or a
// dead server is Config.Timeout and no more. It remembers whether the server answers, and since when it does not.
package redisconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

// Mode is how Redis is set up.
type Mode string

// The modes.
const (
	Standalone Mode = "Standalone" // one server
	Sentinel   Mode = "Sentinel"   // a master and its replicas, watched by sentinels
	Cluster    Mode = "Cluster"
)

const (
	// DefaultTimeout of a command.
	DefaultTimeout = 100 * time.Millisecond
	// DefaultPoolSize is how many connections a server gets at most from one Conn. Requests seldom ask Redis, and
	// those that do are answered in well under a millisecond.
	DefaultPoolSize = 32

	maxTimeout  = time.Minute
	maxPoolSize = 10_000
	maxDatabase = 1023
)

// Secret is a password. No way of printing or marshalling it shows what it is.
type Secret string

const hidden = "(hidden)"

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the secret.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue hides the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Config says how to reach Redis.
type Config struct {
	// Mode; empty is Standalone.
	Mode Mode
	// Addresses as host:port: of the server, of the sentinels, or of some nodes of the cluster.
	Addresses []string
	// MasterName is what the sentinels call the master. Only with Sentinel.
	MasterName string
	// Database number; a cluster has only 0.
	Database int
	// Username of an ACL user; empty is the default user.
	Username string
	Password Secret
	// SentinelUsername and SentinelPassword are what the sentinels want. Only with Sentinel.
	SentinelUsername string
	SentinelPassword Secret
	// TLS towards the servers and the sentinels; nil is plain text.
	TLS *TLS
	// Timeout of a command whose context has no deadline, from the wait for a connection to the answer; 0 is
	// DefaultTimeout.
	Timeout time.Duration
	// PoolSize bounds the connections to one server; 0 is DefaultPoolSize.
	PoolSize int
	// ClientName is shown by CLIENT LIST; it may be empty.
	ClientName string
}

// TLS is how a server is trusted, and how this side shows who it is. Certificates and keys are PEM.
type TLS struct {
	// ServerName to verify; empty is the host of the address.
	ServerName string
	// CA holds the certificate authorities to trust; empty is the system's.
	CA []byte
	// Certificate and PrivateKey of this side; both or none.
	Certificate []byte
	PrivateKey  Secret
}

// Validate says everything that is wrong with the configuration, a sentence each; nil if nothing is.
func (c Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch c.mode() {
	case Standalone:
		if len(c.Addresses) > 1 {
			wrong("the Redis mode Standalone has one address, but %d are given: leave one, or set the mode to Sentinel or Cluster", len(c.Addresses))
		}
	case Sentinel:
		if c.MasterName == "" {
			wrong("the Redis mode Sentinel needs a master name: give the name that the sentinels have for the master")
		}
	case Cluster:
		if c.Database != 0 {
			wrong("a Redis cluster has no database but 0, and database %d is asked for: leave it out", c.Database)
		}
	default:
		wrong("there is no Redis mode %q: use Standalone, Sentinel or Cluster", string(c.Mode))
	}
	if c.mode() != Sentinel {
		if c.MasterName != "" {
			wrong("a master name (%q) belongs to the Redis mode Sentinel, and the mode is %s: leave it out, or change the mode", c.MasterName, c.mode())
		}
		if c.SentinelPassword != "" || c.SentinelUsername != "" {
			wrong("a user name or password for sentinels belongs to the Redis mode Sentinel, and the mode is %s: leave it out, or change the mode", c.mode())
		}
	}
	if len(c.Addresses) == 0 {
		wrong("no address of Redis is given: give one as host:port")
	}
	for _, a := range c.Addresses {
		if err := checkAddress(a); err != nil {
			wrong("the Redis address %q cannot be used: %w", a, err)
		}
	}
	if c.Database < 0 || c.Database > maxDatabase {
		wrong("the Redis database %d does not exist: use 0 to %d", c.Database, maxDatabase)
	}
	if c.Username != "" && c.Password == "" {
		wrong("the Redis user %q has no password: give one, or leave the user out", c.Username)
	}
	if c.SentinelUsername != "" && c.SentinelPassword == "" {
		wrong("the user %q of the sentinels has no password: give one, or leave the user out", c.SentinelUsername)
	}
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		wrong("the Redis timeout %v is out of range: use more than 0 and at most %v", c.Timeout, maxTimeout)
	}
	if c.PoolSize < 0 || c.PoolSize > maxPoolSize {
		wrong("a pool of %d connections to Redis is out of range: use 1 to %d", c.PoolSize, maxPoolSize)
	}
	if strings.ContainsFunc(c.ClientName, func(r rune) bool { return r <= ' ' || r > '~' }) {
		wrong("the client name %q cannot be told to Redis: use printable ASCII without spaces", c.ClientName)
	}
	if _, err := c.TLS.config(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c Config) mode() Mode {
	if c.Mode == "" {
		return Standalone
	}
	return c.Mode
}

// Equal tells whether both lead to the same servers in the same way, so that a Conn can be kept.
func (c Config) Equal(o Config) bool {
	if len(c.Addresses) != len(o.Addresses) || (c.TLS == nil) != (o.TLS == nil) {
		return false
	}
	for i := range c.Addresses {
		if c.Addresses[i] != o.Addresses[i] {
			return false
		}
	}
	if c.TLS != nil && (c.TLS.ServerName != o.TLS.ServerName || string(c.TLS.CA) != string(o.TLS.CA) ||
		string(c.TLS.Certificate) != string(o.TLS.Certificate) || c.TLS.PrivateKey != o.TLS.PrivateKey) {
		return false
	}
	return c.mode() == o.mode() && c.MasterName == o.MasterName && c.Database == o.Database &&
		c.Username == o.Username && c.Password == o.Password &&
		c.SentinelUsername == o.SentinelUsername && c.SentinelPassword == o.SentinelPassword &&
		c.Timeout == o.Timeout && c.PoolSize == o.PoolSize && c.ClientName == o.ClientName
}

func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return errors.New("it is not host:port, as in redis.example.com:6379")
	}
	if host == "" || strings.ContainsAny(host, "/@ \t\r\n") {
		return errors.New("its host is empty or is not the name of one: write host:port without a scheme, user or path")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("its port %q is not a number from 1 to 65535", port)
	}
	return nil
}

// config makes what crypto/tls wants; nil for plain text.
func (t *TLS) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	var errs []error
	if len(t.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(t.CA) {
			errs = append(errs, errors.New("the certificate authorities for Redis hold no certificate in PEM (-----BEGIN CERTIFICATE-----)"))
		}
	}
	switch hasCert, hasKey := len(t.Certificate) > 0, t.PrivateKey != ""; {
	case hasCert != hasKey:
		errs = append(errs, errors.New("a client certificate for Redis and its private key belong together: give both or none"))
	case hasCert:
		pair, err := tls.X509KeyPair(t.Certificate, []byte(t.PrivateKey))
		if err != nil {
			errs = append(errs, fmt.Errorf("the client certificate for Redis cannot be used with its private key: %w", err))
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, errors.Join(errs...)
}
