package redisconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// field is where people say which Redis is used, and how. Whatever uses a Conn is configured there.
const field = "LLMGateway spec.sharedState.redis"

// Error is what a command failed with when Redis could not do its work: it says which Redis, what is the matter and what to do.
type Error struct {
	where  string // addresses
	advice string // what is the matter, and what to do
	err    error
}

// Error is one sentence, and what the server or the network said.
func (e *Error) Error() string {
	return fmt.Sprintf("Redis at %s (%s) %s: %v", e.where, field, e.advice, e.err)
}

// Unwrap gives what the server or the network said.
func (e *Error) Unwrap() error { return e.err }

// explain makes an Error of one that means Redis is unavailable; others stay as they are.
func (c *Conn) explain(ctx context.Context, err error) error {
	var done *Error
	if !Unavailable(err) || errors.As(err, &done) || errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return err
	}
	return &Error{where: strings.Join(c.cfg.Addresses, ", "), advice: c.advice(err), err: err}
}

func (c *Conn) advice(err error) string {
	user := "the default user"
	if c.cfg.Username != "" {
		user = fmt.Sprintf("the user %q", c.cfg.Username)
	}
	var answered redis.Error
	if errors.As(err, &answered) {
		text := answered.Error()
		kind, _, _ := strings.Cut(text, " ")
		switch kind {
		case "WRONGPASS":
			return "refuses the password of " + user + ": correct username and passwordRef"
		case "NOAUTH":
			return "wants a password: give passwordRef, and username for an ACL user"
		case "NOPERM":
			return "does not let " + user + " do this: give that ACL user the commands, keys and channels of Weir (docs/operations.md), or name another with username"
		case "LOADING":
			return "is reading its data from disk: wait until it is done"
		case "READONLY":
			return "is a read-only replica: name the master in addresses, or use mode Sentinel"
		case "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS":
			return "is failing over or has lost servers: see to its servers"
		case "MOVED", "ASK":
			return "is part of a cluster: set mode to Cluster"
		case "OOM":
			return "is out of memory: raise its maxmemory"
		case "MISCONF":
			return "cannot write to its disk and takes no changes: see its log"
		case "BUSY":
			return "is busy with a script: see what else runs there"
		}
		if strings.HasPrefix(text, "ERR AUTH") {
			return "takes no password: leave passwordRef and username out, or set a password there"
		}
		return "refuses connections: see its log and its maxclients"
	}
	var timeout net.Error
	var record tls.RecordHeaderError
	var unverified *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unverified), errors.As(err, &authority), errors.As(err, &host):
		return "shows a certificate that is not trusted: correct tls.caRef or tls.serverName"
	case errors.As(err, &record):
		return "does not speak TLS: leave tls out, or name its TLS port in addresses"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("did not answer in time (timeout %v): see whether it runs and can be reached from here, or raise timeout", c.timeout)
	case errors.Is(err, io.EOF):
		return "closed the connection: see whether it runs, and whether it wants TLS (tls)"
	}
	return "cannot be reached: see whether it runs and whether addresses are right"
}
