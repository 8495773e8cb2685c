package session

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// Policy is a SessionPolicy at work. It is not changed once it is in use.
type Policy struct {
	// ID is namespace/name of the object.
	ID string
	// Headers that name a session, in lower case, in the order in which they are looked at.
	Headers []string
	// PerTenant says that sessions belong to the tenant and not to one of its consumers.
	PerTenant bool

	// HistoryTurns and HistoryTokens bound what is added to a request; no tokens is no bound.
	HistoryTurns  int
	HistoryTokens int64
	// KeepTurns and KeepBytes bound what is kept.
	KeepTurns int
	KeepBytes int64
	// Idle and Absolute time-outs.
	Idle, Absolute time.Duration

	// Redis keeps sessions where there is one; else the memory does, up to MemoryBytes.
	Redis       bool
	MemoryBytes int64
	// Keys encrypt; the first writes, all read. None: nothing is encrypted.
	Keys []*Key
	// Deny requests whose session cannot be read.
	Deny bool

	Summary    *SummaryPolicy
	Rules      []*Rule
	Extraction *Extraction
	Machine    *Machine
	Sticky     bool
}

// SummaryPolicy says when and by whom old turns are summed up.
type SummaryPolicy struct {
	Model        string
	AfterTokens  int64
	KeepTurns    int
	MaxTokens    int64
	Instructions string // "": the built-in ones
	Timeout      time.Duration
}

// DefaultHeader names a session where the policy says nothing else.
const DefaultHeader = "x-weir-session"

// HoldsCredential says whether a header, in lower case, holds what proves who a caller is.
func HoldsCredential(name string) bool {
	switch name {
	case "authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key":
		return true
	}
	return false
}

// maxName of a session, in bytes.
const maxName = 256

// Name finds the name of a request's session; "" where it names none.
func (p *Policy) Name(header func(name string) string) (string, *canon.Error) {
	for _, h := range p.Headers {
		v := header(h)
		if v == "" {
			continue
		}
		if err := CheckName(v); err != nil {
			return "", &canon.Error{Kind: canon.ErrInvalidRequest, Code: codeName, Message: fmt.Sprintf("The header %s does not name a session: %v.", h, err)}
		}
		return v, nil
	}
	return "", nil
}

// codeName is the code of a refused name.
const codeName = "invalid_session"

// CheckName says what is wrong with a name of a session.
func CheckName(v string) error {
	if v == "" {
		return errors.New("it is empty")
	}
	if len(v) > maxName {
		return fmt.Errorf("it has %d bytes, and may have %d", len(v), maxName)
	}
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("it may hold printable ASCII without spaces")
	}
	// A segment of a path that means another path: clients and servers resolve it, and /api/sessions/. would be all sessions.
	if v == "." || v == ".." {
		return fmt.Errorf("it may not be %q, which no path can hold", v)
	}
	return nil
}

// Address of a session under the policy.
func (p *Policy) Address(tenant, consumer, id string) Address {
	if p.PerTenant {
		consumer = ""
	}
	return Address{Tenant: tenant, Consumer: consumer, ID: id}
}

// writes is the key that encrypts, or nil.
func (p *Policy) writes() *Key {
	if len(p.Keys) == 0 {
		return nil
	}
	return p.Keys[0]
}
