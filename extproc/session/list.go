package session

import (
	"cmp"
	"context"
	"errors"
	"strings"
)

// Filter says which sessions are meant: all, those of a tenant, or those of one of its consumers.
type Filter struct {
	Tenant string // "": every tenant
	// Consumer counts where OneConsumer is set: "" is that of sessions that belong to the whole tenant.
	Consumer    string
	OneConsumer bool
}

// place is where a session is: in which store, under which Ref. Places are in order.
type place struct {
	store string
	ref   Ref
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.store, o.store), cmp.Compare(p.ref.Tenant, o.ref.Tenant), cmp.Compare(p.ref.Consumer, o.ref.Consumer), cmp.Compare(p.ref.ID, o.ref.ID))
}

// String is a cursor.
func (p place) String() string {
	return strings.Join([]string{p.store, p.ref.Consumer, p.ref.ID, p.ref.Tenant}, " ")
}

func placeOf(cursor string) (p place, ok bool) {
	parts := strings.SplitN(cursor, " ", 4)
	if len(parts) != 4 {
		return p, false
	}
	return place{parts[0], Ref{Tenant: parts[3], Consumer: parts[1], ID: parts[2]}}, true
}

const (
	inMemory  = "memory"
	isInRedis = "redis"
)

// each calls yield with what there may be of a filter, in order, from the first after the one given; until it says false.
func (m *Manager) each(ctx context.Context, f Filter, after place, yield func(p *Policy, at place) (bool, error)) error {
	for _, p := range m.readers() {
		store, name := m.storeOf(p), inMemory
		if p.Redis {
			name = isInRedis
		}
		if name < after.store {
			continue
		}
		tenants := []string{f.Tenant}
		if f.Tenant == "" {
			var err error
			if tenants, err = store.Tenants(ctx); err != nil {
				return err
			}
		}
		for _, tenant := range tenants {
			if name == after.store && tenant < after.ref.Tenant {
				continue
			}
			consumers := []string{ConsumerHash(tenant, f.Consumer)}
			if !f.OneConsumer {
				var err error
				if consumers, err = store.Consumers(ctx, tenant); err != nil {
					return err
				}
			}
			for _, consumer := range consumers {
				ids, err := store.IDs(ctx, tenant, consumer)
				if err != nil {
					return err
				}
				for _, id := range ids {
					at := place{name, Ref{tenant, consumer, id}}
					if at.compare(after) <= 0 {
						continue
					}
					if more, err := yield(p, at); err != nil || !more {
						return err
					}
				}
			}
		}
	}
	return nil
}

// List shows up to limit sessions from a cursor on ("" is the beginning), and the cursor of those that follow ("" for none). What cannot be read is
// left out and counted.
func (m *Manager) List(ctx context.Context, f Filter, cursor string, limit int) (lines []Line, next string, err error) {
	var after place
	if cursor != "" {
		var ok bool
		if after, ok = placeOf(cursor); !ok {
			return nil, "", errBadCursor
		}
	}
	lines = []Line{}
	last := after
	err = m.each(ctx, f, after, func(p *Policy, at place) (bool, error) {
		if len(lines) == limit {
			next = last.String()
			return false, nil
		}
		last = at
		s, err := m.readAny(ctx, p, at.ref)
		if err == nil && s != nil {
			lines = append(lines, lineOf(s, at.store))
		}
		return true, err
	})
	return lines, next, err
}

var errBadCursor = errors.New("cursor is not one that a list gave")

// readAny reads what is at a place; nil where there is nothing that can be read.
func (m *Manager) readAny(ctx context.Context, p *Policy, at Ref) (*Session, error) {
	s, _, err := m.loadRef(ctx, p, at)
	if errors.Is(err, errUnreadable) {
		m.failed("read", err)
		return nil, nil
	}
	if s != nil && s.Erased {
		return nil, err
	}
	return s, err
}

// Find reads a session wherever it is kept, but for what was said in its turns; nil where there is none.
func (m *Manager) Find(ctx context.Context, a Address) (*Session, error) {
	var errs []error
	for _, p := range m.readers() {
		s, _, err := m.load(ctx, p, a)
		if s != nil && !s.Erased {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Export calls yield with each session of a filter, as JSON. What cannot be read is left out and counted.
func (m *Manager) Export(ctx context.Context, f Filter, yield func([]byte) error) error {
	return m.each(ctx, f, place{}, func(p *Policy, at place) (bool, error) {
		s, err := m.readAny(ctx, p, at.ref)
		if err != nil || s == nil {
			return err == nil, err
		}
		text, err := export(s)
		if errors.Is(err, errUnreadable) {
			m.failed("read", err)
			return true, nil
		}
		if err == nil {
			err = yield(text)
		}
		return err == nil, err
	})
}

// EraseAll erases the sessions of a filter, also those that cannot be read, and says how many there were.
func (m *Manager) EraseAll(ctx context.Context, f Filter) (n int, err error) {
	err = m.each(ctx, f, place{}, func(p *Policy, at place) (bool, error) {
		done, err := m.erase(ctx, p, at.ref, nil)
		if done {
			n++
		}
		return err == nil, err
	})
	return n, err
}

// Edit changes a session that is there, wherever it is kept, under the policy that it was last used under; nil where there is none. Where
// revision is not 0 the session must have it.
func (m *Manager) Edit(ctx context.Context, a Address, revision uint64, do func(s *Session, p *Policy, tell func(Event)) error) (*Session, error) {
	var errs []error
	for _, reader := range m.readers() {
		s, _, err := m.load(ctx, reader, a)
		if s == nil || s.Erased {
			errs = append(errs, err)
			continue
		}
		p := m.policy(s.Policy)
		if p == nil || p.Redis != reader.Redis {
			return nil, errNoPolicy
		}
		found := false
		s, err = m.change(ctx, p, a, func(s *Session, there bool, tell func(Event)) (bool, error) {
			if found = there; !there {
				return false, nil
			}
			if revision != 0 && s.Revision != revision {
				return false, errRevision
			}
			return true, do(s, p, tell)
		})
		if err != nil || !found {
			return nil, err
		}
		return s, nil
	}
	return nil, errors.Join(errs...)
}

var (
	errNoPolicy = errors.New("the SessionPolicy of the session is not there any more, so that the session can only be read and erased")
	errRevision = errors.New("the session was changed since that revision")
)
